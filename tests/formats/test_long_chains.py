"""The split-off powers of two: exact, and enough for chains of any length."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import CHAINS, FORMATS, TREES

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain
from ttlightning.formats.kernels.scales import scale_by_power_of_two, split_off_power_of_two, split_off_scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_power_of_two_is_exact(dtype):
    largest = {torch.float32: 127, torch.float64: 1023}[dtype]
    exponents = torch.arange(1 - largest, largest + 1, dtype=torch.int32)
    values = torch.full((len(exponents), 1), 1.0, dtype=dtype)
    expected = torch.tensor([math.ldexp(1.0, e) for e in exponents.tolist()], dtype=torch.float64).to(dtype)
    assert torch.equal(scale_by_power_of_two(values, exponents)[:, 0], expected)


@given(seed=st.integers(0, 2**31), exponent=st.integers(-120, 120))
def test_splitting_changes_no_bit(seed, exponent):
    state = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    scaled = state.clone()
    scale, split = split_off_power_of_two(scaled)
    assert torch.equal(state * scale, scaled)
    largest = scaled.abs().amax(1)
    assert ((largest >= 0.5) & (largest < 1)).all()
    assert torch.equal(scale_by_power_of_two(scaled, split), state)


def test_zero_states_stay_zero():
    scaled = torch.zeros(2, 3)
    _, exponent = split_off_power_of_two(scaled)
    assert torch.equal(scaled, torch.zeros(2, 3))
    assert torch.equal(exponent, torch.zeros(2, dtype=exponent.dtype))


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 127), (torch.float64, 1023)])
def test_scales_of_places_and_samples_change_no_bit(dtype, largest):
    """Every power of two from the smallest normal number to half of the largest, each a sample of its own."""
    powers = torch.arange(1 - largest, largest - 1)
    values = torch.ldexp(torch.rand(2, 5, len(powers), dtype=dtype) + 1, powers)
    values[:, 1] = values[:, 0] / -4
    before = values.clone()
    scales, exponents = split_off_scales(values)
    assert torch.equal(before * scales, values)
    assert torch.equal(scales, torch.ldexp(torch.ones_like(scales), -exponents))
    found = values.abs().amax(1)
    assert ((found >= 0.5) & (found < 1)).all()


def test_values_without_a_scale_stay():
    """0, inf and nan; numbers at both ends of the range come nearer to 1."""
    values = torch.tensor([0.0, math.inf, math.nan, 3e38, 1e-45]).reshape(1, 1, 5)
    scales, _ = split_off_scales(values)
    assert (scales[..., [0, 1, 3, 4]] > 0).all()
    found = values.flatten().tolist()
    assert found[:2] == [0.0, math.inf]
    assert math.isnan(found[2])
    assert 0.5 <= found[3] < 8
    assert 0 < found[4] < 1


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3])
def test_digits_are_right_however_far_out_of_range_the_scores_are(kind, scale):
    """float32 agrees with float64 at d = 784 (trees: 1024), where scores lie far outside float32's range."""
    torch.manual_seed(0)
    format = kind(1024 if kind in TREES else 784, 3, 10, rank=8, initialization="gaussian")
    features = scale * torch.randn(4, format.sites, 3)
    mantissa, exponent = format.scaled_scores(features)
    assert torch.isfinite(mantissa).all()
    assert (mantissa.abs().amax(1) > torch.finfo(torch.float32).tiny).all()
    exact_mantissa, exact_exponent = format.double().scaled_scores(features.double())
    found = torch.ldexp(mantissa.double(), (exponent - exact_exponent).unsqueeze(1))
    atol = 0.0 if kind in CHAINS else 1e-4 * exact_mantissa.abs().max().item()
    torch.testing.assert_close(found, exact_mantissa, rtol=1e-2, atol=atol)


def test_784_sites_train():
    """Gradients neither vanish nor overflow where the scores themselves are of the order of one."""
    torch.manual_seed(0)
    format = EqualCoreTensorTrain(784, 3, 10, rank=8)
    features = torch.rand(4, 784, 3)
    features[..., -1] = 1
    loss = torch.nn.functional.cross_entropy(format(features), torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in format.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 1e-6


@pytest.mark.parametrize("kind", CHAINS)
def test_a_score_out_of_range_is_infinite_or_zero_and_never_wrong(kind):
    torch.manual_seed(0)
    format = kind(784, 3, 2, rank=4, initialization="gaussian")
    huge, tiny = (format(scale * torch.ones(1, 784, 3)) for scale in (1e3, 1e-3))
    assert torch.isinf(huge).all()
    assert torch.equal(tiny, torch.zeros_like(tiny))


@pytest.mark.parametrize("kind", [CanonicalPolyadic, *TREES])
@pytest.mark.parametrize("sites", [16, 64])
def test_products_train(kind, sites):
    """From the identity start, scores and gradients are of the order of one, for features of size 0.3."""
    torch.manual_seed(0)
    format = kind(sites, 17, 10, rank=16)
    features = 0.3 * torch.rand(32, sites, 17)
    features[..., -1] = 1
    scores = format(features)
    assert 0.1 < scores.std() < 100
    scores.std().backward()
    norms = [p.grad.norm().item() for p in format.parameters()]
    assert all(1e-4 < norm < 1e4 for norm in norms), norms
