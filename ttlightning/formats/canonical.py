r"""Canonical polyadic: the weight tensor of a shallow multiplicative network.

    W_y[i_1, ..., i_d] = sum_k c_ky a_1k[i_1] a_2k[i_2] ... a_dk[i_d]                             [K18, Eq. 3]

Each of r hidden units multiplies d inner products, <a_1k, f_1> ... <a_dk, f_d>, and the classes add units. Its width r
is what the CP-rank of a tensor counts: how many units a shallow network needs to say the same.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.contraction import split_off_scales


class CanonicalPolyadic(ScoreTensor):
    r"""Canonical polyadic decomposition, shared by the classes up to the weights of the sum ([K18, Sec. 2]).

    Width: CP-rank r. Parameters: d n r + r C for d sites, n modes, C classes. Every matricization of a class tensor has
    rank at most r.

    The parameters:
        ``factors`` (sites, modes, rank), the a_jk; ``weights`` (rank, classes), the c_ky.

    Args:
        sites: d, at least 2.
        modes: n, features per site.
        classes: C.
        rank: r, the number of hidden units.
        initialization: ``identity`` starts every unit at 1 where the last feature is 1 and the others are 0: last entry
            of every a 1, the others N(0, (gain/10)^2 / n). ``gaussian`` draws all entries of a from N(0, gain^2 / n);
            the product of d of them dies or explodes. The weights are N(0, 1/r).
        gain: size of the random part.

    Raises:
        UserError: where a size is too small.
    """

    def __init__(
        self,
        sites: int,
        modes: int,
        classes: int,
        rank: int = 16,
        initialization: Literal["identity", "gaussian"] = "identity",
        gain: float = 1.0,
    ) -> None:
        super().__init__(sites, modes, classes)
        require_at_least(type(self).__name__, "rank", rank, 1)
        noise = gain / modes**0.5 * (0.1 if initialization == "identity" else 1.0)
        self.factors = nn.Parameter(noise * torch.randn(sites, modes, rank))
        self.weights = nn.Parameter(rank**-0.5 * torch.randn(rank, classes))
        if initialization == "identity":
            with torch.no_grad():
                self.factors[:, -1] = 1

    @property
    def rank(self) -> int:
        return self.weights.shape[0]

    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        products, exponent = UnitProducts.apply(features, self.factors)
        return products.T @ self.weights, exponent


class UnitProducts(torch.autograd.Function):
    """<a_1k, f_1> ... <a_dk, f_d> of every unit: (rank, batch) and its power of two for each sample; backward once.

    The sites are multiplied as a binary tree, the scale of each part split off before: none leaves the range. The batch
    comes last in memory, where every operation runs along it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
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
        ctx.save_for_backward(x_PnB, factors, *levels, *all_scales)
        exponent = torch.cat(all_exponents).sum((0, 1), dtype=torch.int32)
        ctx.mark_non_differentiable(exponent)
        return parts_PrB[0], exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, products_rB: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        x_PnB, factors, *saved = ctx.saved_tensors
        levels, all_scales = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        adjoint_PrB = products_rB.unsqueeze(0)
        for parts_PrB, scales in zip(reversed(levels), reversed(all_scales), strict=True):
            half, below_PrB = len(parts_PrB) // 2, torch.empty_like(parts_PrB)
            torch.mul(adjoint_PrB[:half], parts_PrB[half : 2 * half], out=below_PrB[:half])
            torch.mul(adjoint_PrB[:half], parts_PrB[:half], out=below_PrB[half : 2 * half])
            if len(parts_PrB) % 2:
                below_PrB[-1] = adjoint_PrB[-1]
            adjoint_PrB = below_PrB.mul_(scales)
        return torch.bmm(factors, adjoint_PrB).permute(2, 0, 1), torch.bmm(x_PnB, adjoint_PrB.transpose(1, 2))
