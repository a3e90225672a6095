"""The hand-derived backward passes, torch's and the compiled one, against autograd through the plain recurrence."""

import pytest
import torch
from kinds import needs_compiler

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native, torch_chain
from ttlightning.formats.kernels.dispatch import chain_scores, chain_values
from ttlightning.formats.kernels.scales import scale_by_power_of_two


def plain_scores(features, first, interior, last):
    """The recurrence as it is written, one einsum a site, differentiated by autograd."""
    sites = features.shape[1]
    state = torch.einsum("bi,ir->br", features[:, 0], first)
    for k in range(sites - 2):
        core = interior[k] if len(interior) == sites - 2 else interior[0]
        state = torch.einsum("ba,bi,iac->bc", state, features[:, k + 1], core)
    return torch.einsum("ba,bi,iay->by", state, features[:, -1], last)


def arguments(sites, distinct, mode_size=3, rank=4, batch=5, classes=2):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    shapes = (batch, sites, mode_size), (mode_size, rank), (distinct, mode_size, rank, rank), (mode_size, rank, classes)
    return [draw(*shape) for shape in shapes]


@pytest.fixture(params=["native", "torch"])
def kernel(request, monkeypatch):
    """Both ways to compute the chain on a CPU."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip("this machine has no C compiler")
    return request.param


@pytest.fixture(params=[(1, 1 << 40), (160, 1 << 40), (1 << 20, 1 << 40), (1 << 20, 0)])
def way_back(request, kernel, monkeypatch):
    """Torch's way back in one piece, in many, or site by site; the compiled one on one thread, two, three, and four."""
    numbers_at_once, arithmetic_per_site = request.param
    monkeypatch.setattr(torch_chain, "ARITHMETIC_PER_SITE", arithmetic_per_site)
    monkeypatch.setattr(torch_chain, "NUMBERS_AT_ONCE", numbers_at_once)
    if kernel == "native":
        monkeypatch.setattr(native, "ARITHMETIC_PER_THREAD", 1)
        monkeypatch.setattr(
            torch,
            "get_num_threads",
            lambda: 1 + int(numbers_at_once > 1) + int(numbers_at_once > 160) + int(arithmetic_per_site == 0),
        )


@pytest.mark.parametrize("sizes", [{}, {"mode_size": 7, "rank": 13, "batch": 5, "classes": 2}])
@pytest.mark.parametrize("sites", [2, 3, 4, 8, 9, 20, 41])
@pytest.mark.parametrize("equal", [True, False])
def test_scores_and_gradients(sites, equal, sizes, way_back):
    """Any number of sites, with and without rescalings."""
    inputs = arguments(sites, min(1, sites - 2) if equal else sites - 2, **sizes)
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


def test_an_empty_batch(kernel):
    """A device may be left without samples at the end of an epoch."""
    inputs = arguments(6, 1, batch=0)
    scores = scale_by_power_of_two(*chain_scores(*inputs))
    assert scores.shape == (0, 2)
    scores.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in inputs)


def test_the_same_bits_every_time(kernel):
    drawn = arguments(16, 1, mode_size=17, rank=16, batch=64, classes=10)
    inputs = [p.detach().float().requires_grad_() for p in drawn]
    runs = []
    for _ in range(3):
        scores = scale_by_power_of_two(*chain_scores(*inputs))
        runs.append([scores, *torch.autograd.grad(scores.sum(), inputs)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("mode_size", "rank", "classes", "batch"),
    [(5, 1, 1, 1), (5, 6, 7, 33), (17, 17, 10, 64), (9, 40, 3, 70), (2, 300, 9, 9)],
)
@needs_compiler
def test_the_number_of_threads_changes_no_bit(dtype, mode_size, rank, classes, batch, monkeypatch):
    """Also where the batch does not fill its vectors, and where sizes are no multiples of tiles, squares and chunks."""
    monkeypatch.setattr(native, "ARITHMETIC_PER_THREAD", 1)
    for distinct in (1, 9):
        inputs = arguments(11, distinct, mode_size=mode_size, rank=rank, batch=batch, classes=classes)
        inputs = [p.detach().to(dtype).requires_grad_() for p in inputs]
        results = []
        for threads in (1, 2, 3, 70):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            scores = scale_by_power_of_two(*chain_scores(*inputs))
            results.append([scores, *torch.autograd.grad(scores.sum(), inputs)])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
        doubles = [p.detach().double().requires_grad_() for p in inputs]
        expected = plain_scores(*doubles)
        for found, right in zip(results[0], [expected, *torch.autograd.grad(expected.sum(), doubles)], strict=True):
            tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * float(right.detach().abs().max())
            torch.testing.assert_close(found.double(), right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_the_values_are_the_scaled_scores(kernel, size):
    """The shorter way to the scores, at sizes whose exponents are far from 0."""
    inputs = arguments(20, 1, rank=7)
    with torch.no_grad():
        inputs[2].mul_(size)
    results = []
    for scores in (chain_values(*inputs), scale_by_power_of_two(*chain_scores(*inputs))):
        assert scores.abs().max() > 0
        results.append([scores, *torch.autograd.grad(scores.sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("chain", [chain_values, chain_scores])
def test_without_gradients_no_states_are_kept(chain, kernel, monkeypatch):
    """The scores are the same with two states at a time, which is all that the compiled kernel keeps."""
    kept = []
    plan = native._plan
    monkeypatch.setattr(native, "_plan", lambda *sizes: kept.append(sizes[-1]) or plan(*sizes))
    inputs = arguments(20, 18, rank=7, batch=37)
    with_gradients = chain(*inputs)
    with torch.no_grad():
        without = chain(*inputs)
    assert kept == ([native.KEEP_ALL, native.KEEP_TWO] if kernel == "native" else [])
    assert all(torch.equal(a, b) for a, b in zip(with_gradients, without, strict=True))


@pytest.mark.parametrize("sites", [2, 3, 4, 7, 8, 9, 10, 16, 17, 25, 41, 64])
@pytest.mark.parametrize("equal", [True, False])
@needs_compiler
def test_segments_change_nothing(sites, equal, monkeypatch):
    """Only some states kept, the others computed again: the same scores, and gradients that are as right; twice too."""
    inputs = arguments(sites, min(1, sites - 2) if equal else sites - 2, rank=7, batch=37)
    results = []
    for least in (1000, 2):
        monkeypatch.setattr(native, "SITES_FOR_SEGMENTS", least)
        for threads in (1, 3):
            monkeypatch.setattr(native, "ARITHMETIC_PER_THREAD", 1)
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            mantissa, exponent = chain_scores(*inputs)
            for retain in (True, False):
                gradients = torch.autograd.grad(mantissa.sum(), inputs, retain_graph=retain, allow_unused=True)
                results.append((mantissa, exponent, *gradients))
    for index, other in enumerate(results):
        assert torch.equal(other[0], results[0][0])
        assert torch.equal(other[1], results[0][1])
        for ours, theirs in zip(other[2:], results[0][2:], strict=True):
            assert torch.equal(ours, theirs) or index >= 4
            scale = float(theirs.abs().max()) if theirs.numel() else 0.0
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13 * scale)
    for ours, theirs in zip(results[4][2:], results[7][2:], strict=True):
        assert torch.equal(ours, theirs)  # threads change no bit, segmented or not


def test_not_a_number_comes_through(kernel):
    """A loss that is NaN must be seen, not hidden by a rescaling."""
    inputs = arguments(20, 1)
    with torch.no_grad():
        inputs[0][2, 5, 0] = float("nan")
    scores = scale_by_power_of_two(*chain_scores(*inputs))
    assert scores.isnan().all(1).tolist() == [False, False, True, False, False]


def test_strided_arguments(kernel):
    """Views and transposes, as autograd and optimizers may hand them over."""
    features, first, interior, last = arguments(10, 8, mode_size=4, rank=4)
    odd = features.transpose(1, 2).contiguous().transpose(1, 2), first.T, interior.transpose(2, 3), last.flip(0)
    straight = [p.detach().contiguous() for p in odd]
    torch.testing.assert_close(chain_scores(*odd)[0], chain_scores(*straight)[0])
    torch.autograd.gradcheck(lambda *p: scale_by_power_of_two(*chain_scores(*p)), odd)


@needs_compiler
def test_arguments_of_different_sizes_are_refused():
    """The kernel reads memory by the sizes that it is told."""
    features, first, interior, last = arguments(6, 4)
    with pytest.raises(UserError, match=r"features are torch.float32, the cores torch.float64"):
        chain_scores(features.float(), first, interior, last)
    for wrong in (
        (features[:, :, :2], first, interior, last),
        (features, first[:, :3], interior, last),
        (features, first, interior[:2], last),
        (features, first, interior, last[:, :3]),
        (features[:, :4], first, interior, last),
    ):
        with pytest.raises(UserError, match="do not fit together"):
            chain_scores(*wrong)
