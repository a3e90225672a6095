"""``check_format`` rejects a format that breaks one law, and names the law."""

import pytest
import torch
from tensor_ring import PlainTensorRing, TensorRing

from ttlightning import EqualCoreTensorTrain
from ttlightning.testing import check_format


class Squared(PlainTensorRing):
    def scaled_scores(self, features):
        return super().scaled_scores(features * features[:, :1])


class OfTheWholeBatch(PlainTensorRing):
    """The samples are not scored one by one."""

    def scaled_scores(self, features):
        return super().scaled_scores(torch.cat([features[:1] * (1 + len(features)), features[1:]]))


class Unscaled(PlainTensorRing):
    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features)
        return torch.ldexp(mantissa, exponent[:, None]), torch.zeros_like(exponent)


class FloatExponent(PlainTensorRing):
    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features)
        return mantissa, exponent.double()


class HiddenState(PlainTensorRing):
    """A tensor that is neither parameter nor buffer: no copy of the state has it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.hidden = torch.randn(1).item()

    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features)
        return mantissa * self.hidden, exponent


class SinglePrecision(PlainTensorRing):
    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features.float().to(features.dtype))
        return mantissa, exponent


class WrongGradient(PlainTensorRing):
    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features)
        return mantissa + (mantissa - mantissa.detach()), exponent


class ConstantGradient(PlainTensorRing):
    """Right once, wrong the second time."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, weights):
            ctx.save_for_backward(weights)
            return values * weights.sum() / weights.sum()

        @staticmethod
        def backward(ctx, adjoint):
            return adjoint.detach(), None

    def scaled_scores(self, features):
        mantissa, exponent = super().scaled_scores(features)
        return self.Identity.apply(mantissa, self.closing), exponent


class TwoClassesSwapped(TensorRing):
    def exact_scores(self, vectors, field):
        return super().exact_scores(vectors, field)[::-1]


class OneClassMissing(TensorRing):
    def exact_scores(self, vectors, field):
        return super().exact_scores(vectors, field)[1:]


class RankOfNothing(PlainTensorRing):
    rank = 0


class GenericRankOfAFloat(PlainTensorRing):
    def generic_rank(self):
        return 4.0


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Squared, "linear in site 1"),
        (OfTheWholeBatch, "permuting samples"),
        (Unscaled, "scaled_scores keeps scores"),
        (FloatExponent, "the exponent is torch.float64, not an integer"),
        (HiddenState, "a format with the same state_dict"),
        (SinglePrecision, "linear in site|mantissa"),
        (WrongGradient, "derivatives of order 1"),
        (ConstantGradient, "derivatives of order 2"),
        (TwoClassesSwapped, "exact score of class 0"),
        (OneClassMissing, "exact_scores gives 1 classes, not 2"),
        (RankOfNothing, "rank is 0"),
        (GenericRankOfAFloat, r"generic_rank\(\) is 4.0"),
    ],
)
def test_a_broken_format_is_named_by_the_law_that_it_breaks(kind, law):
    with pytest.raises(AssertionError, match=law):
        check_format(kind)


def test_another_dense_tensor_is_noticed():
    with pytest.raises(AssertionError, match="entries of the dense tensor"):
        check_format(EqualCoreTensorTrain, dense=lambda format: torch.zeros(3, 3, 3, 3, 2, dtype=torch.float64))


def test_sizes_beyond_float64_are_not_compared():
    with pytest.raises(AssertionError, match="are not exact in float64: check fewer sites or a smaller rank"):
        check_format(lambda *sizes: EqualCoreTensorTrain(*sizes, rank=64), sites=9, mode_size=4)
