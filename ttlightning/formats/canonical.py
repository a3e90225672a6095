r"""Canonical polyadic: the weight tensor of a shallow multiplicative network.

    W_y[i_1, ..., i_d] = sum_k c_ky a_1k[i_1] a_2k[i_2] ... a_dk[i_d]                             [K18, Eq. 3]

Each of r hidden units multiplies d inner products, <a_1k, f_1> ... <a_dk, f_d>, and the classes add units. Its width r
is what the CP-rank of a tensor counts: how many units a shallow network needs to say the same.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.contraction import split_off_scale


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
        """The product of a unit as a binary tree, the scale of each part split off before: none leaves the range."""
        parts = features.transpose(0, 1) @ self.factors  # (sites, batch, rank)
        exponent = torch.zeros(len(features), dtype=torch.int32, device=features.device)
        while len(parts) > 1:
            parts, shifts = split_off_scale(parts)
            exponent += shifts.sum(0, dtype=torch.int32)
            half = len(parts) // 2
            parts = torch.cat([parts[:half] * parts[half : 2 * half], parts[2 * half :]])
        return parts[0] @ self.weights, exponent
