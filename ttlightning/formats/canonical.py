r"""Canonical polyadic: the weight tensor of a shallow multiplicative network.

    W_y[i_1, ..., i_d] = sum_k c_ky a_1k[i_1] a_2k[i_2] ... a_dk[i_d]                             [K18, Eq. 3]

Each of r hidden units multiplies d inner products, <a_1k, f_1> ... <a_dk, f_d>, and the classes add units. The
CP-rank of a tensor is the smallest r: the hidden units that a shallow network needs to equal it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.bounds import generic_canonical_rank
from ttlightning.formats.initialization import gaussian
from ttlightning.formats.kernels.derivatives import contract, gradients, in_full_precision
from ttlightning.formats.kernels.scales import split_off_scales
from ttlightning.formats.modular import Field, Residues, in_order_of_sites, multiply_in_pieces
from ttlightning.formats.moments import Moments, sum_moments


class CanonicalPolyadic(ScoreTensor):
    r"""Canonical polyadic decomposition, shared by the classes up to the weights of the sum ([K18, Sec. 2]).

    Width: r hidden units, an upper bound on the CP-rank of every class tensor. Parameters: d n r + r C for d sites,
    mode size n, C classes. Odd/even matricization of almost every such tensor: rank min(r, n^floor(d/2)).

    The parameters:
        ``factors`` (sites, modes, rank), the a_jk; ``weights`` (rank, classes), the c_ky.

    Args:
        sites: d, at least 2.
        mode_size: n, features per site.
        classes: C.
        rank: r, the number of hidden units.
        initialization: ``identity`` starts every unit at 1 if the last feature is 1 and the others are 0: the last
            entry of every a is 1, the others are N(0, (gain/10)^2 / n). ``gaussian`` draws all entries of a from
            N(0, gain^2 / n), and the product of d factors vanishes or explodes. The weights are N(0, 1/r).
        gain: size of the random part.

    Raises:
        UserError: if a size is too small.
    """

    kind = "shallow"
    shallow = True
    why_not_compressed = (
        "cannot be rounded: its units are not ordered, and a nearest sum of fewer products need not exist"
    )

    def __init__(
        self,
        sites: int,
        mode_size: int,
        classes: int,
        rank: int = 16,
        initialization: Literal["identity", "gaussian"] = "identity",
        gain: float = 1.0,
    ) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "rank", rank, 1)
        noise = gain / mode_size**0.5 * (0.1 if initialization == "identity" else 1.0)
        self.factors = nn.Parameter(gaussian(noise, sites, mode_size, rank))
        self.weights = nn.Parameter(gaussian(rank**-0.5, rank, classes))
        if initialization == "identity":
            with torch.no_grad():
                self.factors[:, -1] = 1

    @property
    def rank(self) -> int:
        return self.weights.shape[0]

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return contract(UnitProducts, _by_operations, features, self.factors, self.weights)

    def generic_rank(self) -> int:
        return generic_canonical_rank(self.mode_size, self.rank, self.sites)

    def roundings(self) -> int:
        return self.sites * (self.mode_size + 1) + self.rank

    def spectral_moments(self, metrics: Float[Tensor, "sites modes modes"]) -> Moments:
        return sum_moments(self.factors, self.weights, metrics)

    def exact_scores(self, vectors: Sequence[Residues], field: Field) -> Iterable[Residues]:
        """U diag(c_y) V^T: U has the units' products over the odd sites, V those over the even sites."""
        factors, weights = field.residues(self.factors), field.residues(self.weights)
        units = [field.multiply(v, factor) for v, factor in zip(vectors, factors, strict=True)]
        odd, even = (_all_products(units[parity::2], field.prime) for parity in (0, 1))
        counts = [len(v) for v in vectors]
        for c in weights.T:
            yield in_order_of_sites(multiply_in_pieces(odd * c % field.prime, even.T, field), counts)


def _all_products(tables: Sequence[Residues], prime: int) -> Residues:
    """(count, r) for several sites -> (every choice of one row from each, r): a unit multiplies."""
    products = tables[0]
    for table in tables[1:]:
        products = (products[:, None, :] * table[None, :, :] % prime).reshape(-1, table.shape[1])
    return products


class UnitProducts(torch.autograd.Function):
    """Scores (batch, classes), sums of <a_1k, f_1> ... <a_dk, f_d>, and their power of two for each sample."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        products_rB, exponent, *others = _products(features, factors)
        ctx.save_for_backward(features, factors, weights, exponent, products_rB, *others)
        ctx.mark_non_differentiable(exponent)
        return products_rB.T @ weights, exponent

    @staticmethod
    def backward(ctx: Any, scores_BC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, scores_BC, 3, _by_hand, _by_operations)


def _products(features: Tensor, factors: Tensor) -> tuple[Tensor, ...]:
    """Products (rank, batch) and exponents; for the backward pass also the features, the levels and their scales.

    The sites are multiplied as a binary tree, after the scale of each part has been split off. The batch is the last
    axis in memory, and every operation runs along it.
    """
    x_PnB = features.permute(1, 2, 0).contiguous()
    parts_PrB = torch.bmm(factors.transpose(1, 2), x_PnB)
    levels, all_scales, all_exponents = [], [], []
    while len(parts_PrB) > 1:
        scales, exponents = split_off_scales(parts_PrB)
        levels.append(parts_PrB)
        all_scales.append(scales)
        all_exponents.append(exponents)
        half = len(parts_PrB) // 2
        products = parts_PrB[:half] * parts_PrB[half : 2 * half]
        parts_PrB = torch.cat([products, parts_PrB[2 * half :]]) if len(parts_PrB) % 2 else products
    exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
    return parts_PrB[0], exponent, x_PnB, *levels, *all_scales


def _by_operations(features: Tensor, factors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    products_rB, exponent, *_ = _products(features, factors)
    return products_rB.T @ weights, exponent


def _by_hand(
    _: Any, scores_BC: Tensor, inputs: tuple[Tensor, ...], saved: tuple[Tensor, ...], *_exponent: Tensor
) -> tuple[Tensor, ...]:
    _features, factors, weights = inputs
    products_rB, x_PnB, *others = saved
    levels, all_scales = others[: len(others) // 2], others[len(others) // 2 :]
    adjoint_PrB = (weights @ scores_BC.T).unsqueeze(0)
    for parts_PrB, scales in zip(reversed(levels), reversed(all_scales), strict=True):
        half, below_PrB = len(parts_PrB) // 2, torch.empty_like(parts_PrB)
        torch.mul(adjoint_PrB[:half], parts_PrB[half : 2 * half], out=below_PrB[:half])
        torch.mul(adjoint_PrB[:half], parts_PrB[:half], out=below_PrB[half : 2 * half])
        if len(parts_PrB) % 2:
            below_PrB[-1] = adjoint_PrB[-1]
        adjoint_PrB = below_PrB.mul_(scales)
    dfactors = torch.bmm(x_PnB, adjoint_PrB.transpose(1, 2))
    return torch.bmm(factors, adjoint_PrB).permute(2, 0, 1), dfactors, products_rB @ scores_BC
