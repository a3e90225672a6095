"""CoreMuon: its steps follow the formula, and commute with orthogonal changes of gauge."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttlightning import EqualCoreTensorTrain, TensorTrain
from ttlightning.optim import CoreMuon
from ttlightning.optim.core_muon import polar

KINDS = (TensorTrain, EqualCoreTensorTrain)


def orthogonal(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double())[0]


def train(format: torch.nn.Module, steps: int, kind: type = CoreMuon) -> None:
    """Steps of least squares on random features, the same for every format of these sizes."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(20, format.sites, format.mode_size, generator=generator).double()
    wanted = torch.randn(20, format.classes, generator=generator).double()
    optimizer = kind(format.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (format(features) - wanted).square().mean().backward()
        optimizer.step()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_polar_keeps_singular_vectors_and_brings_the_values_near_one(rows, columns, seed, dtype):
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    u, values, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    found = u.mT @ polar(matrices).double() @ v.mT
    assert (found - torch.diag_embed(found.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3
    large = values > 0.05 * values[..., :1]
    assert ((found.diagonal(dim1=-2, dim2=-1)[large] - 1).abs() < 0.35).all()
    assert torch.equal(polar(torch.zeros(2, rows, columns)), torch.zeros(2, rows, columns))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_commute_with_orthogonal_changes_of_gauge(kind):
    torch.manual_seed(0)
    one = kind(5, 3, 4, rank=6, initialization="gaussian").double()
    other, turn = copy.deepcopy(one), orthogonal(6, 1)
    with torch.no_grad():
        other.first.copy_(one.first @ turn)
        other.interior.copy_(turn.mT @ one.interior @ turn)
        other.last.copy_(turn.mT @ one.last)
    before = one.first.clone()
    for format in (one, other):
        train(format, 10)
    assert (one.first - before).abs().max() > 0.01
    torch.testing.assert_close(other.first, one.first @ turn)
    torch.testing.assert_close(other.interior, turn.mT @ one.interior @ turn)
    torch.testing.assert_close(other.last, turn.mT @ one.last)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 4, 3), (2, 3, 4, 4)])
def test_a_matrix_steps_by_the_formula(shape):
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    expected, buffer = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    optimizer = CoreMuon([weight], lr=0.1, weight_decay=0.3, momentum=0.9)
    for _ in range(3):
        weight.grad = torch.randn(shape, dtype=torch.float64)
        optimizer.step()
        buffer = 0.9 * buffer + weight.grad
        direction = polar(weight.grad + 0.9 * buffer)
        expected = expected * (1 - 0.1 * 0.3) - 0.1 * 0.2 * max(shape[-2:]) ** 0.5 * direction
    torch.testing.assert_close(weight.detach(), expected)


def test_a_vector_steps_as_adam():
    torch.manual_seed(2)
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    one, other = CoreMuon([mine], lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(20):
        mine.grad = torch.randn(5)
        theirs.grad = mine.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(mine, theirs)


def test_a_saved_state_goes_on_to_the_same_bits():
    torch.manual_seed(3)
    network = torch.nn.Linear(4, 3)
    optimizer = CoreMuon(network.parameters())

    def step(network: torch.nn.Module, optimizer: CoreMuon, seed: int) -> None:
        optimizer.zero_grad()
        network(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()

    step(network, optimizer, 0)
    again = copy.deepcopy(network)
    restored = CoreMuon(again.parameters())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in (1, 2):
        step(network, optimizer, seed)
        step(again, restored, seed)
    assert torch.equal(network.weight, again.weight)
    assert torch.equal(network.bias, again.bias)


def test_a_closure_is_evaluated_with_gradients():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = CoreMuon([weight], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 4
    assert (weight < 1).any()


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        CoreMuon([torch.nn.Parameter(torch.ones(1))], **wrong)
