r"""The odd/even matricization of a weight tensor, complete or sketched, from its scores alone.

    P_y[(i_1, i_3, ...), (i_2, i_4, ...)] = W_y[i_1, i_2, i_3, ...]

Rows are the odd sites, columns the even sites, counted from 1. An entry of R P C is the score at the features
(u_1, v_1, u_2, v_2, ...): u is a row of R, a product of odd-site features, and v is a column of C. It works for every
format, because it uses scores only.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.rank.in_float64 import in_float64

LARGEST_MATRICIZATION = 100_000_000
"""Entries of the largest complete matricization, all classes, 800 MB in float64."""


def sketch(format: ScoreTensor, size: int, generator: torch.Generator) -> Float[Tensor, "classes size size"]:
    r"""R P_y C for each class, float64: K random products of odd-site features, K of even-site features.

    The features of a site are uniform on the sphere of radius sqrt(n), so R and C are isotropic. The rank of the sketch
    is at most the rank of P_y, and min(K, rank P_y) with probability 1. All classes are divided by one common power of
    two, which changes no rank, stable rank or entropy.
    """
    odd, even = (format.sites + 1) // 2, format.sites // 2
    rows, columns = (_on_sphere(size, sites, format.mode_size, generator) for sites in (odd, even))
    return _scores_on_grid(format, rows, columns)


def equilibrate(
    matrices: Float[Tensor, "classes rows columns"], rounds: int = 3
) -> Float[Tensor, "classes rows columns"]:
    r"""D_1 A D_2 with diagonal D_1, D_2 that scale rows and columns to norm 1 in turn.

    It changes no rank. Rows of a sketch are products of many random numbers and differ by orders of magnitude, more so
    for longer chains. Without scaling, rounding errors of the largest rows would be larger than the smallest rows.
    """
    tiny = torch.finfo(matrices.dtype).tiny
    for _ in range(rounds):
        matrices = matrices / matrices.norm(dim=2, keepdim=True).clamp_min(tiny)
        matrices = matrices / matrices.norm(dim=1, keepdim=True).clamp_min(tiny)
    return matrices


def matricization(format: ScoreTensor) -> Float[Tensor, "classes rows columns"]:
    r"""P_y itself for each class, (n^ceil(d/2), n^floor(d/2)), float64: the scores at one-hot features.

    Raises:
        UserError: if it does not fit in memory.
    """
    odd, even = (format.sites + 1) // 2, format.sites // 2
    entries = format.classes * format.mode_size**format.sites
    if entries > LARGEST_MATRICIZATION:
        raise UserError(
            f"the odd/even matricizations of {format.classes} class tensors with {format.sites} modes of size "
            f"{format.mode_size} have {entries:.3g} entries, {entries * 8 / 2**30:.3g} GiB; the limit is "
            f"{LARGEST_MATRICIZATION:.0e} entries: sample them with sketch()"
        )
    one_hot = torch.eye(format.mode_size, dtype=torch.float64)
    rows, columns = (
        torch.stack([one_hot[list(i)] for i in product(range(format.mode_size), repeat=s)]) for s in (odd, even)
    )
    return _scores_on_grid(format, rows, columns, common_scale=False)


def _on_sphere(
    samples: int, sites: int, mode_size: int, generator: torch.Generator
) -> Float[Tensor, "samples sites modes"]:
    gaussian = torch.randn(samples, sites, mode_size, generator=generator, dtype=torch.float64)
    return gaussian / gaussian.norm(dim=2, keepdim=True) * mode_size**0.5


def _scores_on_grid(
    format: ScoreTensor,
    rows: Float[Tensor, "rows odd modes"],
    columns: Float[Tensor, "columns even modes"],
    common_scale: bool = True,
) -> Float[Tensor, "classes rows columns"]:
    mantissa, exponent = in_float64(format, "scaled_scores_on_grid", rows, columns)
    if common_scale:
        exponent = exponent - exponent.max()
    return torch.ldexp(mantissa, exponent.unsqueeze(2)).permute(2, 0, 1)
