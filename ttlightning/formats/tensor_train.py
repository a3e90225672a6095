r"""Tensor trains: the weight tensor of a multiplicative recurrent network.

    W_y[i_1, ..., i_d] = F[i_1] G_2[i_2] G_3[i_3] ... G_{d-1}[i_{d-1}] L_y[i_d]

F[i] is a row of length r, G_k[i] an r x r matrix, L_y[i] a column of length r. Read from left to right it is a
recurrent network, h_k = sum_i f_k[i] h_{k-1} G_k[i], with no nonlinearity between the sites; r is its width.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.formats.base import ScoreTensor, require_at_least
from ttlightning.formats.initialization import INITIALIZATIONS
from ttlightning.formats.kernels.derivatives import in_full_precision
from ttlightning.formats.kernels.dispatch import chain_scores, chain_values


class TensorTrain(ScoreTensor):
    r"""Tensor train with a core of its own at every site ([K18, Eq. 4]; matrix product state in physics).

    Width: TT-rank r. Parameters: n r + (d - 2) n r^2 + n r C for d sites, mode size n, C classes.
    CP-rank of almost every such tensor: see ``ttlightning.rank.bounds``.

    The cores, all of them ``nn.Parameter``:
        ``first`` (modes, rank), ``interior`` (sites - 2, modes, rank, rank), ``last`` (modes, rank, classes).

    Args:
        sites: d, the length of the chain, at least 2.
        mode_size: n, features per site.
        classes: C, outputs of the last unit.
        rank: r, the TT-rank (bond dimension) of every bond.
        initialization: ``identity`` passes the state on where the last feature is 1 and the others are 0, so it
            wants a constant last feature; ``gaussian`` draws every entry independently.
        gain: size of the random part, in units of the formula in ``ttlightning.formats.initialization``.

    Raises:
        UserError: where a size is too small.
    """

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
        require_at_least(type(self).__name__, "rank", rank, 1)
        self._rank = rank
        self.first = nn.Parameter(torch.empty(mode_size, rank))
        self.interior = nn.Parameter(torch.empty(self._distinct_interior_cores(), mode_size, rank, rank))
        self.last = nn.Parameter(torch.empty(mode_size, rank, classes))
        with torch.no_grad():
            INITIALIZATIONS[initialization](self.first, self.interior, self.last, gain)

    @property
    def rank(self) -> int:
        return self._rank

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return chain_scores(features, self.first, self.interior, self.last)

    @in_full_precision
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        return chain_values(features, self.first, self.interior, self.last)

    def cores(self) -> list[Float[Tensor, "left modes right"]]:
        """The d TT-cores as (r_{k-1}, n, r_k), r_0 = 1 and r_d = classes: W[i_1..i_d, y] as one tensor train."""
        interior = self.interior.expand(self.sites - 2, -1, -1, -1)
        ends = self.first.unsqueeze(0), self.last.transpose(0, 1)
        return [ends[0], *(core.transpose(0, 1) for core in interior), ends[1]]

    def _distinct_interior_cores(self) -> int:
        return self.sites - 2


class EqualCoreTensorTrain(TensorTrain):
    r"""Tensor train whose interior cores are all one core, G_2 = ... = G_{d-1} = G ([A24]; uniform MPS in physics).

    A recurrent network with a single cell; the first and the last core stay free.
    Width: TT-rank r. Parameters: n r + n r^2 + n r C, whatever the number of sites.
    ``interior`` has the shape (1, modes, rank, rank), and (0, modes, rank, rank) where there are only two sites.
    """

    def _distinct_interior_cores(self) -> int:
        return min(1, self.sites - 2)
