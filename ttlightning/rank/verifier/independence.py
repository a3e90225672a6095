"""The claim that the features of a network are linearly independent, checked without the code that makes it."""

from typing import TYPE_CHECKING, Any

from ttlightning.rank.limits import unfit
from ttlightning.rank.verifier.claims import Rejected

if TYPE_CHECKING:
    from torch import Tensor

    Features = tuple[str, bool, Tensor, Tensor]


def check_features(
    claim: dict[str, Any], mode_size: int, activation: str, constant: bool, weight: "Tensor", bias: "Tensor"
) -> None:
    """Raise ``Rejected`` unless they are those of the claim, n, and every two of them different as the criterion says.

    relu: a_i b-augmented rows of different hyperplanes, by 2 x 2 minors; others: a_i that are not equal or opposite.
    """
    if claim != {"activation": activation, "constant": constant}:
        raise Rejected("its features are not those of the checkpoint")
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(weight) + constant != mode_size:
        raise Rejected(f"the feature map of the checkpoint has not {mode_size} features")
    if reason := unfit({"of the features": weight, "of the features' bias": bias}):
        raise Rejected(reason)
    rows = [[x.as_integer_ratio() for x in row] for row in weight.tolist()]
    if activation == "relu":
        shifted = [[*row, x.as_integer_ratio()] for row, x in zip(rows, bias.tolist(), strict=True)]
    for index, row in enumerate(rows):
        if not any(top for top, _ in row):
            raise Rejected(f"feature {index} is constant")
        for other in range(index):
            if activation == "relu":
                same = _parallel(shifted[index], shifted[other])
            else:
                same = row == rows[other] or [(-top, bottom) for top, bottom in row] == rows[other]
            if same:
                raise Rejected(f"features {other} and {index} may depend on each other")


def _parallel(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> bool:
    """Whether every 2 x 2 minor with the first column that is not 0 in ``one`` is 0; fractions as pairs of integers."""
    first = next(k for k, (top, _) in enumerate(one) if top)
    (a, b), (c, d) = one[first], two[first]
    return all(a * y * q * d == c * x * b * z for (x, q), (y, z) in zip(one, two, strict=True))
