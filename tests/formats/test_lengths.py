"""Sequences of different lengths in one batch: each has the scores of the chain of its own length."""

import pytest
import torch
from kinds import FORMATS

from ttlightning import EqualCoreTensorTrain, UserError
from ttlightning.formats.kernels import lengths as of_lengths
from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.lengths import group_by_length

SITES = 41


@pytest.fixture(params=["native", "torch"])
def kernel(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip("this machine has no C compiler")


def drawn(dtype, size=1.0, sites=SITES, batch=70):
    """A chain with cores of this size, and sequences of all lengths with NaN behind their ends."""
    torch.manual_seed(0)
    format = EqualCoreTensorTrain(sites, 3, 2, rank=5, initialization="gaussian").to(dtype)
    format.interior.data *= size
    lengths = torch.randint(2, sites + 1, (batch,))
    lengths[:2] = torch.tensor([2, sites])
    features = torch.randn(batch, sites, 3, dtype=dtype)
    features[torch.arange(sites) >= lengths[:, None]] = torch.nan
    return format, features, lengths


def one_by_one(format, features, lengths):
    """Mantissa and exponent of every sequence by itself, on the chain of its own length."""
    pairs = [format.of_length(n).scaled_scores(x[None, :n]) for x, n in zip(features, lengths.tolist(), strict=True)]
    return tuple(torch.cat(part) for part in zip(*pairs, strict=True))


@pytest.mark.parametrize("together", [1, 16, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_and_gradients_are_those_of_a_chain_of_its_own_length(dtype, together, kernel, monkeypatch):
    """With the compiled kernel to the bit, with torch's products to rounding; in one group, in some and in many."""
    monkeypatch.setattr(of_lengths, "TOGETHER", together)
    format, features, lengths = drawn(dtype)
    weights = torch.randn(len(lengths), 2, dtype=dtype)
    features.requires_grad_()
    inputs = [features, *format.parameters()]
    found = format(features, lengths)
    mantissa, exponent = one_by_one(format, features, lengths)
    expected = torch.ldexp(mantissa, exponent[:, None])
    if native.kernel() is not None:
        assert torch.equal(found, expected)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.detach().std()))
    results = (torch.autograd.grad((scores * weights).sum(), inputs) for scores in (found, expected))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=100 * tolerance, atol=tolerance * float(theirs.abs().max()))
    assert (torch.autograd.grad(format(features, lengths).sum(), features)[0][features.isnan()] == 0).all()


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_scores_out_of_range_keep_their_digits(size, kernel):
    format, features, lengths = drawn(torch.float32, size)
    mantissa, exponent = format.scaled_scores_of_lengths(features, lengths)
    expected, other = one_by_one(format.double(), features.double(), lengths)
    assert exponent.abs().max() > 500
    torch.testing.assert_close(
        torch.ldexp(mantissa.double(), (exponent - other)[:, None]), expected, rtol=1e-3, atol=1e-5
    )


def test_recorded_and_mapped_calls_are_the_same():
    """vmap over samples and second derivatives, which no grouping can serve."""
    format, features, lengths = drawn(torch.float64, batch=9)
    features = features.nan_to_num()
    expected = format(features, lengths)
    mapped = torch.func.vmap(lambda x, n: format(x[None], n[None])[0])(features, lengths)
    torch.testing.assert_close(mapped, expected)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(format(features, lengths).square().sum(), features, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), format.interior)
    step = 1e-6 * torch.randn_like(format.interior)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            format.interior += sign * step
            with torch.enable_grad():
                (there,) = torch.autograd.grad(format(features, lengths).square().sum(), features)
            values.append(there.square().sum())
            format.interior -= sign * step
    torch.testing.assert_close((second * step).sum() * 2, values[0] - values[1], rtol=1e-5, atol=0)


def test_groups_hold_every_sample_once_and_waste_little():
    lengths = torch.randint(2, 500, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = group_by_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(300))
    assert all(len(group) >= 16 for group in groups[:-1])
    assert sum(len(group) * max(lengths[i] for i in group) for group in groups) < 1.1 * sum(lengths)
    assert group_by_length([7] * 100) == [list(range(100))]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind is not EqualCoreTensorTrain])
def test_a_format_with_parameters_per_site_refuses(kind):
    format = kind(8, 3, 2, rank=2)
    assert not kind.any_length
    for call in (lambda: format(torch.ones(4, 8, 3), torch.full((4,), 5)), lambda: format.of_length(6)):
        with pytest.raises(UserError, match=f"{kind.__name__} has parameters for each of 8 sites .*EqualCoreTensor"):
            call()
    assert format.of_length(8) is format


def test_lengths_that_do_not_fit():
    format = EqualCoreTensorTrain(8, 3, 2, rank=2)
    features = torch.ones(4, 8, 3)
    for lengths, message in (
        (torch.tensor([1, 8, 8, 8]), "from 1 to 8, they must be at least 2 and at most 8"),
        (torch.tensor([2, 9, 8, 8]), "from 2 to 9"),
        (torch.full((4,), 3.0), "whole numbers"),
        (torch.full((3,), 3), r"of shape \(4,\)"),
    ):
        with pytest.raises(UserError, match=message):
            format(features, lengths)
    with pytest.raises(UserError, match="takes features of shape"):
        format(torch.ones(4, 9, 3), torch.full((4,), 3))
    assert format(features[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 2)


def test_the_format_of_another_length_shares_its_parameters():
    format = EqualCoreTensorTrain(8, 3, 2, rank=4)
    other = format.of_length(5)
    assert other.sites == 5
    assert other.interior is format.interior
    assert other.generic_rank() == EqualCoreTensorTrain(5, 3, 2, rank=4).generic_rank()
    assert format.of_length(2).interior.shape == (0, 3, 4, 4)
    with pytest.raises(UserError, match="no interior core"):
        format.of_length(2).of_length(5)
