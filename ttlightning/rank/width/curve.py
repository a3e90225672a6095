r"""The error that every sum of R products makes, against R: a lower bound that no rounding can spoil.

    e(R) = sqrt(sum_{k > R} s_k^2) / sqrt(sum_k s_k^2)          s_k, singular values of S          [Eckart, Young]

The squares s_k^2 are the eigenvalues of H = S S^T. What is computed is H' = S S^T in float64 and Q, L with
H' ~ Q diag(L) Q^T. The three differences are bounded, and every bound is subtracted:

    |H' - H|_F            <= gamma_N |S|_F^2                     N columns
    |H' - Q diag(L) Q^T|_F   computed, plus its own rounding
    |Q^T Q - 1|_F = a        computed; the eigenvalues of Q diag(L) Q^T are at least (1 - a) L, L >= 0     [Ostrowski]

S comes in blocks of columns and is never in memory; H' is the sum of their products. A change of a block's power of two
is exact up to underflow, which is counted.

A sum of eigenvalues moves by at most the nuclear norm of a change, which is at most sqrt(K) times its Frobenius norm.
If S itself has errors of Frobenius norm D, sqrt(sum_{k > R} s_k^2) moves by at most D, because it is a distance.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats import ScoreTensor
from ttlightning.rank.width.images import gamma, mixed_blocks, side_by_side, without_common


@dataclass(frozen=True)
class WidthCurve:
    """A lower bound on the error of every sum of R products, R = 0, ..., K."""

    errors: Float[Tensor, " sums"]
    """Root mean square difference over the root mean square of the scores; it falls from 1 to 0."""

    def width(self, eps: float) -> int:
        """The least R with an error of at most ``eps``: every network of fewer units has a larger one."""
        return int((self.errors > eps).sum())


def curve_on_images(
    format: ScoreTensor,
    features: Float[Tensor, "images sites modes"],
    feature_error: Float[Tensor, "images sites modes"] | None = None,
    proven: bool = True,
) -> WidthCurve | None:
    """The curve of the scores on K x K mixed images, all classes together, without their mean over the classes.

    Arguments as of ``mixed_scores``. Memory: some K x K matrices and a block of scores, whatever the number of classes.
    None if a score is not finite.
    """
    blocks = (without_common(mixed) for mixed in mixed_blocks(format, features, feature_error, proven))
    return curve_of_blocks((*side_by_side(each), each.exponent) for each in blocks)


def width_curve(matrix: Float[Tensor, "rows columns"], error: float | None = 0.0) -> WidthCurve:
    """The curve of one matrix of finite scores.

    Args:
        matrix: S in float64, rows not more than columns for the least work.
        error: D; None if it is not known, and the curve is measured, not proven.

    A matrix that is zero, or smaller than its error, has the curve 0: nothing is known.
    """
    curve = curve_of_blocks([(matrix, error, 0)])
    assert curve is not None
    return curve


def curve_of_blocks(blocks: Iterable[tuple[Float[Tensor, "rows _"], float | None, int]]) -> WidthCurve | None:
    """The curve of a matrix from blocks of its columns, their D and exponents of two; None if it is not finite."""
    gram, columns, moved, scale, underflow = torch.zeros(1, 1, dtype=torch.float64), 0, 0.0, 0, 0.0
    for matrix, error, exponent in blocks:
        if not matrix.isfinite().all():
            return None
        scale, before = max(scale, exponent) if columns else exponent, scale
        if columns and scale > before:
            gram, moved = gram.ldexp(torch.tensor(2 * (before - scale))), math.ldexp(moved, before - scale)
        if scale > exponent:
            matrix = matrix.ldexp(torch.tensor(exponent - scale))
        gram = gram + matrix @ matrix.T
        moved = math.hypot(moved, math.ldexp(error or 0.0, exponent - scale))
        columns += matrix.shape[1]
        underflow += matrix.numel() * torch.finfo(torch.float64).tiny
    return _curve(gram, columns, 1.01 * moved + underflow, underflow)


def _curve(gram: Float[Tensor, "rows rows"], columns: int, moved: float, underflow: float) -> WidthCurve:
    """The curve of H', given D and what underflow can have changed of H' and of S, in the Frobenius norm."""
    rows = len(gram)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    total = float(gram.trace())
    rebuilt = (vectors * values) @ vectors.T
    of_gram = gamma(columns + 1) * total + underflow
    of_eigenvalues = float((gram - rebuilt).norm()) + gamma(rows + 3) * rows * float(values.max())
    identity = torch.eye(rows, dtype=gram.dtype)
    skew = float((vectors.T @ vectors - identity).norm()) + gamma(rows + 1) * rows
    lost = 1.01 * rows**0.5 * (of_gram + of_eigenvalues)
    tails = torch.cat([values.new_zeros(1), values.cumsum(0)]).flip(0)  # eigh sorts upwards
    tails = (tails * (1 - 1.01 * (skew + gamma(2 * rows))) - lost).clamp_min(0).sqrt()
    norm = (total * (1 + 1.01 * gamma(rows + columns + 1)) + underflow) ** 0.5 + moved
    errors = (tails - moved).clamp_min(0) / norm if norm > 0 else torch.zeros_like(tails)
    return WidthCurve(errors)
