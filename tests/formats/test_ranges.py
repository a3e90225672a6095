"""Sites of very different sizes: what a format says then, in both types, against float64 or against exact integers."""

from fractions import Fraction

import pytest
import torch
from kinds import KERNELS, by_kernel, inputs_of, made

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, SharedHierarchicalTucker
from ttlightning.formats.kernels.scales import scale_by_power_of_two

TURNS = {
    "by turns": lambda k, d: 1 if k % 2 else -1,
    "eights": lambda k, d: 1 if k // 8 % 2 else -1,
    "halves": lambda k, d: 1 if k >= d // 2 else -1,
    "outside": lambda k, d: 1 if d // 4 <= k < 3 * d // 4 else -1,
}


OWN_CORES = [p for p in KERNELS if p[0] not in (EqualCoreTensorTrain, SharedHierarchicalTucker)]
"""Formats in which a site has parameters of its own."""


def of_kernel(parameter):
    return f"{parameter[0].__name__}, {parameter[1]}"


@pytest.fixture(params=KERNELS, ids=of_kernel)
def kind(request, monkeypatch):
    return by_kernel(*request.param, monkeypatch)


@pytest.mark.parametrize("sites", [16, 64, 256])
@pytest.mark.parametrize("power", [6, 15, 25])
@pytest.mark.parametrize("turns", TURNS)
def test_features_of_mixed_sizes(kind, turns, power, sites):
    """Sites at 10^-power and at 10^power, other ones in every sample: digits and exponents as in float64."""
    format, features = made(kind, sites, torch.float32)
    sizes = torch.tensor([[TURNS[turns](k + s, sites) for k in range(sites)] for s in range(len(features))])
    features = features.detach() * 10.0 ** (power * sizes.unsqueeze(2))
    mantissa, exponent = format.scaled_scores(features.float())
    right, its = format.double().scaled_scores(features.double())
    assert right.isfinite().all()
    assert (mantissa.abs().amax(1) > 0).all()
    found = torch.ldexp(mantissa.double(), (exponent - its).unsqueeze(1))
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turns", TURNS)
def test_sizes_that_cancel_change_nothing(kind, turns, dtype):
    """A power of two to each site and back at another one: the same bits, of the scores and of every gradient."""
    format, features = made(kind, 32, dtype)
    weights = torch.linspace(-1, 2, 6, dtype=dtype).view(3, 2)
    scores = format(features)
    (slope,) = torch.autograd.grad((scores * weights).sum(), features)
    sizes = 2.0 ** (20 * torch.tensor([TURNS[turns](k, 32) for k in range(32)], dtype=dtype)).view(1, -1, 1)
    assert float(sizes.log2().sum()) == 0
    other = (features.detach() * sizes).requires_grad_()
    found = format(other)
    assert torch.equal(found, scores)
    assert torch.equal(torch.autograd.grad((found * weights).sum(), other)[0] * sizes, slope)


@pytest.mark.parametrize("kind", OWN_CORES, indirect=True, ids=of_kernel)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cores_of_mixed_sizes(kind, dtype):
    """The same for the parameters of a format, where each site has its own."""
    format, features = made(kind, 32, dtype)
    own = [p for p in format.parameters() if p.shape[0] >= 16]
    assert own
    inputs = inputs_of(format, features)
    scores = format(features)
    slopes = torch.autograd.grad(scores.sum(), inputs)
    sizes = []
    for p in format.parameters():
        places = p.shape[0] if any(p is q for q in own) else 0
        size = 2.0 ** (20 * torch.tensor([1 if k >= places // 2 else -1 for k in range(places)], dtype=dtype))
        sizes.append(size.view(-1, *(1 for _ in p.shape[1:])) if places else torch.ones((), dtype=dtype))
        with torch.no_grad():
            p.mul_(sizes[-1])
    found = format(features)
    assert torch.equal(found, scores)
    again = torch.autograd.grad(found.sum(), inputs)
    for slope, before, size in zip(again, slopes, (torch.ones((), dtype=dtype), *sizes), strict=True):
        assert torch.equal(slope * size, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_sites_is_exact(kind, dtype):
    """Rank 1, a single feature, powers of two far apart: the score is known without rounding."""
    sites = 64
    format, _ = made(kind, sites, dtype, mode_size=1, rank=1, classes=1)
    with torch.no_grad():
        for p in format.parameters():
            p.fill_(1.5)
    powers = [(-1) ** (k // 12) * 90 - 3 * (k % 5) for k in range(sites)]
    features = torch.tensor([2.0**power for power in powers], dtype=dtype).view(1, sites, 1)
    plain = format.double()(torch.ones(1, sites, 1, dtype=torch.float64))
    exact = Fraction(float(plain)) * Fraction(2) ** sum(powers)
    mantissa, exponent = format.to(dtype).scaled_scores(features)
    found = Fraction(float(mantissa)) * Fraction(2) ** int(exponent)
    assert abs(found / exact - 1) < (1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("exponent", range(-420, 420, 7))
@pytest.mark.parametrize("mantissa", [1.0, 1.5 * 2.0**120, 1.25 * 2.0**-120])
def test_scales_beyond_the_range_are_rounded_once(mantissa, exponent):
    """Also where neither the mantissa nor its power of two says that the value is out of range."""
    found = scale_by_power_of_two(torch.tensor([[mantissa]]), torch.tensor([exponent], dtype=torch.int32))
    expected = torch.tensor([[mantissa * 2.0**exponent]], dtype=torch.float64).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2.0**-149)


def test_what_has_no_scale_of_its_own_must_fit_beside_the_largest():
    """The limit that ``ScoreTensor.scaled_scores`` names: the units of a site share one scale."""
    shallow, _ = made(CanonicalPolyadic, 2, torch.float32, mode_size=1, rank=2, classes=1)
    for power, expected in ((15, 2.0), (25, 0.0)):
        with torch.no_grad():
            far = 10.0**power
            shallow.factors.copy_(torch.tensor([[[far, 1 / far]], [[1 / far, far]]]))
            shallow.weights.fill_(1)
        torch.testing.assert_close(shallow(torch.ones(1, 2, 1)), torch.full((1, 1), expected))
