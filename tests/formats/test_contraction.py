"""The hand-derived backward pass against autograd through the plain recurrence."""

import pytest
import torch

from ttlightning.formats import contraction
from ttlightning.formats.contraction import chain_scores, scale_by_power_of_two


def plain_scores(features, first, interior, last):
    """The recurrence as it is written, one einsum a site, differentiated by autograd."""
    sites = features.shape[1]
    state = torch.einsum("bi,ir->br", features[:, 0], first)
    for k in range(sites - 2):
        core = interior[k] if len(interior) == sites - 2 else interior[0]
        state = torch.einsum("ba,bi,iac->bc", state, features[:, k + 1], core)
    return torch.einsum("ba,bi,iay->by", state, features[:, -1], last)


def arguments(sites, distinct, modes=3, rank=4, batch=5, classes=2):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    shapes = (batch, sites, modes), (modes, rank), (distinct, modes, rank, rank), (modes, rank, classes)
    return [draw(*shape) for shape in shapes]


@pytest.mark.parametrize(
    ("numbers_at_once", "arithmetic_per_site"), [(1, 1 << 40), (160, 1 << 40), (1 << 20, 1 << 40), (1 << 20, 0)]
)
@pytest.mark.parametrize("sites", [2, 3, 4, 8, 9, 20, 41])
@pytest.mark.parametrize("equal", [True, False])
def test_scores_and_gradients(sites, equal, numbers_at_once, arithmetic_per_site, monkeypatch):
    """Any number of sites, with and without rescalings, the way back in one piece, in many, or site by site."""
    monkeypatch.setattr(contraction, "ARITHMETIC_PER_SITE", arithmetic_per_site)
    monkeypatch.setattr(contraction, "NUMBERS_AT_ONCE", numbers_at_once)
    inputs = arguments(sites, min(1, sites - 2) if equal else sites - 2)
    weights = torch.linspace(-1, 2, 10, dtype=torch.float64).reshape(5, 2)
    found = scale_by_power_of_two(*chain_scores(*inputs))
    expected = plain_scores(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = (
        torch.autograd.grad((scores * weights).sum(), inputs, allow_unused=True) for scores in (found, expected)
    )
    for name, ours, theirs in zip(("features", "first", "interior", "last"), *gradients, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(
            ours, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()) if theirs.numel() else 0, msg=name
        )


def test_an_empty_batch():
    """A device may be left without samples at the end of an epoch."""
    inputs = arguments(6, 1, batch=0)
    scores = scale_by_power_of_two(*chain_scores(*inputs))
    assert scores.shape == (0, 2)
    scores.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in inputs)


def test_the_same_bits_every_time():
    inputs = [p.detach().float().requires_grad_() for p in arguments(16, 1, modes=17, rank=16, batch=64, classes=10)]
    runs = []
    for _ in range(3):
        scores = scale_by_power_of_two(*chain_scores(*inputs))
        runs.append([scores, *torch.autograd.grad(scores.sum(), inputs)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
