"""The compiled tree and the one of torch's operations, against autograd through the nodes as they are written."""

import math

import pytest
import torch
from kinds import needs_compiler

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native, native_tree
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.formats.kernels.tree import tree_scores, tree_values

SIZES = [(2, 5, 1, 1, 1), (4, 1, 7, 2, 37), (8, 300, 3, 7, 9), (8, 3, 19, 10, 64), (16, 7, 6, 17, 16), (4, 2, 33, 3, 5)]
"""Sites, mode size, rank, classes and batch; no multiples of tiles, vectors and panels among them."""


def plain_scores(features, leaves, root, *nodes):
    """The nodes as they are written, one einsum each, differentiated by autograd."""
    states = [features[:, k] @ leaves[min(k, len(leaves) - 1)] for k in range(features.shape[1])]
    for level in (*nodes, root.unsqueeze(0)):
        pairs = zip(states[0::2], states[1::2], strict=True)
        states = [
            torch.einsum("na,nb,abk->nk", *pair, level[min(position, len(level) - 1)])
            for position, pair in enumerate(pairs)
        ]
    return states[0]


def arguments(sites, mode_size, rank, classes, batch, shared=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    widths = [1 if shared else sites >> level for level in range(sites.bit_length() - 1)]
    leaves = draw(widths[0], mode_size, rank)
    nodes = [draw(width, rank, rank, rank) for width in widths[1:]]
    return [draw(batch, sites, mode_size), leaves, draw(rank, rank, classes), *nodes]


def with_gradients(scores, inputs):
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    return [scores.detach(), *torch.autograd.grad((scores * weights).sum(), inputs)]


@pytest.fixture(params=["native", "torch"])
def kernel(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip("this machine has no C compiler")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_scores_and_gradients(sizes, shared, dtype, kernel):
    inputs = arguments(*sizes, shared, dtype)
    doubles = [p.detach().double().requires_grad_() for p in inputs]
    expected = with_gradients(plain_scores(*doubles), doubles)
    for scores in (tree_values(*inputs), scale_by_power_of_two(*tree_scores(*inputs))):
        for found, right in zip(with_gradients(scores, inputs), expected, strict=True):
            assert found.dtype == dtype
            tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * float(right.abs().max())
            torch.testing.assert_close(found.double(), right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@needs_compiler
def test_the_number_of_threads_changes_no_bit(sizes, shared, dtype, monkeypatch):
    monkeypatch.setattr(native, "ARITHMETIC_PER_THREAD", 1)
    inputs = arguments(*sizes, shared, dtype)
    results = []
    for threads in (1, 1, 2, 3, 70):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(with_gradients(tree_values(*inputs), inputs))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("tree", [tree_values, tree_scores])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 256, 257, 900])
def test_without_gradients_no_states_are_kept(tree, batch, threads, kernel, monkeypatch):
    """The scores are the same, in groups of samples too, and the memory of the states is not there."""
    monkeypatch.setattr(native, "ARITHMETIC_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kept, plan = [], native_tree._plan
    monkeypatch.setattr(native_tree, "_plan", lambda *given: kept.append(plan(*given)) or kept[-1])
    inputs = arguments(8, 3, 5, 2, batch)
    differentiable = tree(*inputs)
    with torch.no_grad():
        found = tree(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(differentiable, found, strict=True))
    assert len(kept) == (2 if kernel == "native" else 0)
    assert not kept or 50 * kept[1].bytes_forward < kept[0].bytes_forward


def test_an_empty_batch(kernel):
    """A device may be left without samples at the end of an epoch."""
    inputs = arguments(8, 3, 5, 2, 0)
    scores = tree_values(*inputs)
    assert scores.shape == (0, 2)
    scores.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in inputs)


def test_not_a_number_comes_through(kernel):
    """A loss that is NaN must be seen, not hidden by a rescaling; no other sample has it."""
    inputs = arguments(8, 3, 5, 2, 20)
    with torch.no_grad():
        inputs[0][7, 5, 0] = float("nan")
        inputs[0][9, 2, 0] = float("inf")
    finite = tree_values(*inputs).isfinite()
    assert [s for s in range(20) if not finite[s].all()] == [7, 9]
    assert not finite[[7, 9]].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_power_of_two_is_exact(dtype, kernel):
    """From the smallest subnormal number to the largest power, a sample each."""
    smallest, largest = {torch.float32: (-149, 127), torch.float64: (-1074, 1023)}[dtype]
    powers = torch.arange(smallest, largest + 1, dtype=torch.int32)
    one = torch.ones(len(powers), 4, 1, dtype=dtype)
    features = torch.ldexp(one.double(), powers.view(-1, 1, 1)).to(dtype)
    cores = [torch.ones(4, 1, 1, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype), torch.ones(2, 1, 1, 1, dtype=dtype)]
    mantissa, exponent = tree_scores(features, *cores)
    fraction, shift = torch.frexp(mantissa[:, 0])
    assert torch.equal(fraction, torch.full_like(fraction, 0.5))
    assert torch.equal(shift + exponent - 1, 4 * powers)
    assert math.isinf(tree_values(features, *cores)[-1])
    assert tree_values(features, *cores)[0] == 0


def test_strided_arguments(kernel):
    """Views and transposes, as autograd and optimizers may hand them over."""
    features, leaves, root, node = arguments(4, 3, 3, 2, 5)
    odd = features.transpose(1, 2).contiguous().transpose(1, 2), leaves.flip(0), root.transpose(0, 1), node.mT
    straight = [p.detach().contiguous() for p in odd]
    torch.testing.assert_close(tree_values(*odd), tree_values(*straight))
    torch.autograd.gradcheck(tree_values, odd)


@needs_compiler
def test_arguments_of_different_sizes_are_refused():
    """The kernel reads memory by the sizes that it is told."""
    features, leaves, root, *nodes = arguments(8, 3, 5, 2, 4)
    with pytest.raises(UserError, match=r"features are torch.float32, the cores torch.float64"):
        tree_scores(features.float(), leaves, root, *nodes)
    for wrong in (
        (features[:, :, :2], leaves, root, *nodes),
        (features[:, :6], leaves, root, *nodes),
        (features[:, :4], leaves, root, *nodes),
        (features, leaves[:3], root, *nodes),
        (features, leaves[:1], root, *nodes),
        (features, leaves[:, :, :4], root, *nodes),
        (features, leaves, root[:4], *nodes),
        (features, leaves, root, nodes[0]),
        (features, leaves, root, nodes[0], nodes[1][:, :, :4]),
        (features[..., 0], leaves, root, *nodes),
        (features, leaves, root[0], *nodes),
    ):
        with pytest.raises(UserError, match="do not fit together"):
            tree_scores(*wrong)
