r"""Scores on mixed images: the odd patches of one image with the even patches of another one.

    S_y[i, j] = score of class y at the odd sites of image i and the even sites of image j

A shallow network of R units has such matrices of rank at most R, whatever its feature maps are. Units are shared by the
classes, so its K x (K C) matrix of all classes has rank at most R too.

Rounding. A score is a sum of products of parameters and features. A term passes through at most m roundings, so a
computed score differs from the exact one by at most gamma_m |S|, gamma_m = m u / (1 - m u), u = 2^-53, where |S| is the
score of the absolute values of all parameters and features [Higham 2002, Sec. 3.1]. Features f that are known up to d
move it by at most |S|(|f| + d) - |S|(|f|).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats import ScoreTensor
from ttlightning.rank.in_float64 import in_float64

UNIT_ROUNDOFF = 2.0**-53
SCORES_AT_ONCE: Final = 16_000_000
"""Numbers of a block of columns, 128 MB in float64; a few such tables are in memory at a time."""


class MixedScores(NamedTuple):
    """Scores on mixed images, all divided by one power of two."""

    scores: Float[Tensor, "classes images columns"]
    error: Float[Tensor, " classes"] | None
    """Proven bound on the Frobenius norm of each class's rounding errors; None: the format's arithmetic is unknown."""
    exponent: int = 0
    """of the power of two"""


def mixed_blocks(
    format: ScoreTensor,
    features: Float[Tensor, "images sites modes"],
    feature_error: Float[Tensor, "images sites modes"] | None = None,
    proven: bool = True,
) -> Iterator[MixedScores]:
    """``mixed_scores`` in blocks of columns, each of ``SCORES_AT_ONCE`` numbers and with a power of two of its own."""
    width = max(1, SCORES_AT_ONCE // (len(features) * format.classes))
    for start in range(0, len(features), width):
        yield mixed_scores(format, features, feature_error, proven, slice(start, start + width))


def mixed_scores(
    format: ScoreTensor,
    features: Float[Tensor, "images sites modes"],
    feature_error: Float[Tensor, "images sites modes"] | None = None,
    proven: bool = True,
    columns: slice = slice(None),
) -> MixedScores:
    """S_y of all classes, in float64.

    Args:
        format: the weight tensors.
        features: of the images.
        feature_error: bounds on the distances of the features from the exact ones; None: they are exact.
        proven: whether to bound the errors too, which takes as long again.
        columns: the images j.
    """
    scores, scale = _on_grid(format, features, columns, absolute=False)
    roundings = format.roundings()
    if not proven or roundings is None:
        return MixedScores(scores, None, scale)

    def size(of: Tensor) -> Tensor:
        sizes, its_scale = _on_grid(format, of, columns, absolute=True)
        return torch.ldexp(sizes, torch.tensor(its_scale - scale))

    sizes = size(features)
    error = 1.01 * gamma(roundings) * sizes.flatten(1).norm(dim=1)
    if feature_error is not None:
        moved = size(features.double().abs() + feature_error)
        error += 1.01 * ((moved - sizes).flatten(1).norm(dim=1) + 2 * gamma(roundings) * moved.flatten(1).norm(dim=1))
    tiny = torch.finfo(torch.float64).tiny * len(features)  # scores that the common scale takes out of range
    return MixedScores(scores, error + tiny, scale)


def gamma(roundings: int) -> float:
    """The relative error of so many roundings, m u / (1 - m u)."""
    return roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF)


def without_common(mixed: MixedScores) -> MixedScores:
    """Minus the mean over the classes: a function that is common to all classes changes no decision and no softmax."""
    scores, error, exponent = mixed
    if error is not None:
        size = scores.flatten(1).norm(dim=1)
        mean = error.mean() + size.mean()  # of the mean over the classes, a bound
        error = error + error.mean() + 1.01 * gamma(len(scores) + 2) * (size + mean)
    return MixedScores(scores - scores.mean(0, keepdim=True), error, exponent)


def side_by_side(mixed: MixedScores) -> tuple[Float[Tensor, "images columns"], float | None]:
    """K x (K C), all classes or a part of their columns, and the bound on the Frobenius norm of its errors."""
    scores, error, _ = mixed
    together = scores.permute(1, 0, 2).reshape(scores.shape[1], -1)
    return together, None if error is None else 1.01 * float(error.norm())


def _on_grid(
    format: ScoreTensor, features: Float[Tensor, "images sites modes"], columns: slice, absolute: bool
) -> tuple[Float[Tensor, "classes images columns"], int]:
    """The scores over one power of two, and its exponent."""
    odd, even = features[:, 0::2], features[columns, 1::2]
    mantissa, exponent = in_float64(format, "scaled_scores_on_grid", odd, even, absolute=absolute)
    sizes = torch.frexp(mantissa.abs().amax(2)).exponent + exponent
    scale = int(sizes.max())
    return torch.ldexp(mantissa, (exponent - scale).unsqueeze(2)).permute(2, 0, 1), scale
