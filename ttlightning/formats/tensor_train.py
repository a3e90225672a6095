r"""Tensor trains: the weight tensor of a multiplicative recurrent network.

    W_y[i_1, ..., i_d] = F[i_1] G_2[i_2] G_3[i_3] ... G_{d-1}[i_{d-1}] L_y[i_d]

F[i] is a row of length r, G_k[i] an r x r matrix, L_y[i] a column of length r. Read from left to right it is a
recurrent network, h_k = sum_i f_k[i] h_{k-1} G_k[i], with no nonlinearity between the sites; r is its width.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.base import ScoreTensor, StaircaseCores, require_at_least
from ttlightning.formats.bounds import cp_rank_bound_a24, cp_rank_bound_k18, generic_odd_even_rank
from ttlightning.formats.grids import chain_on_grid
from ttlightning.formats.initialization import INITIALIZATIONS
from ttlightning.formats.kernels.derivatives import in_full_precision
from ttlightning.formats.kernels.dispatch import chain_scores as scaled_chain_scores
from ttlightning.formats.kernels.dispatch import chain_values
from ttlightning.formats.kernels.lengths import chain_scores_of_lengths
from ttlightning.formats.modular import Field, Residues, chain_scores
from ttlightning.formats.rounding import equal_chain, fit_equal, project_equal, round_chain


class TensorTrain(ScoreTensor):
    r"""Tensor train with a core of its own at every site ([K18, Eq. 4]; matrix product state in physics).

    Width: TT-rank r. Parameters: n r + (d - 2) n r^2 + n r C for d sites, mode size n, C classes.
    CP-rank of almost every such tensor: at least min(n, r) min(n, r^2)^(d/2 - 1) for even d, min(n, r^2)^((d-1)/2) for
    odd d; published: min(n, r)^floor(d/2) [K18, Theorem 1].

    The cores are the parameters
        ``first`` (modes, rank), ``interior`` (sites - 2, modes, rank, rank), ``last`` (modes, rank, classes).

    Args:
        sites: d, the length of the chain, at least 2.
        mode_size: n, features per site.
        classes: C, outputs of the last unit.
        rank: r, the TT-rank (bond dimension) of every bond.
        initialization: ``identity`` passes the state on unchanged if the last feature is 1 and the others are 0, so
            it needs a constant last feature; ``rotation`` turns the state instead, for long chains; ``gaussian`` draws
            every entry independently.
        gain: size of the random part, in units of the formula in ``ttlightning.formats.initialization``.

    Raises:
        UserError: if a size is too small.
    """

    kind = "different cores"
    compressed_to: ClassVar[tuple[str, ...]] = ("different",)

    def __init__(
        self,
        sites: int,
        mode_size: int,
        classes: int,
        rank: int = 16,
        initialization: Literal["identity", "rotation", "gaussian"] = "identity",
        gain: float = 1.0,
    ) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "rank", rank, 1)
        self._rank = rank
        self.first = nn.Parameter(torch.empty(mode_size, rank))
        self.interior = nn.Parameter(torch.empty(self._distinct_interior_cores(), mode_size, rank, rank))
        self.last = nn.Parameter(torch.empty(mode_size, rank, classes))
        if self.first.is_meta:
            return  # a shape without entries, see ``gaussian``
        with torch.no_grad():
            INITIALIZATIONS[initialization](self.first, self.interior, self.last, gain)

    @property
    def rank(self) -> int:
        return self._rank

    @in_full_precision
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return scaled_chain_scores(features, self.first, self.interior, self.last)

    @in_full_precision
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        return chain_values(features, self.first, self.interior, self.last)

    def generic_rank(self) -> int:
        return generic_odd_even_rank(self.mode_size, self.rank, self.sites)

    def published_bound(self) -> int:
        return cp_rank_bound_k18(self.mode_size, self.rank, self.sites)

    def cores(self) -> list[Float[Tensor, "left modes right"]]:
        interior = self.interior.expand(self.sites - 2, -1, -1, -1)
        ends = self.first.unsqueeze(0), self.last.transpose(0, 1)
        return [ends[0], *(core.transpose(0, 1) for core in interior), ends[1]]

    def staircase_cores(self) -> StaircaseCores:
        return StaircaseCores(self.first, self.interior, self.last)

    def roundings(self) -> int:
        return self.sites * (self.mode_size + self.rank)  # a sum over the features, then one over the states

    def scaled_scores_on_grid(
        self, rows: Float[Tensor, "rows odd modes"], columns: Float[Tensor, "columns even modes"]
    ) -> tuple[Float[Tensor, "rows columns classes"], Int[Tensor, "rows columns"]]:
        return chain_on_grid(rows, columns, self.first, self.interior, self.last)

    def exact_scores(self, vectors: Sequence[Residues], field: Field) -> Iterable[Residues]:
        """Sum each core over the modes with the site's feature vectors, then multiply from left to right."""
        first, interior, last = (field.residues(core) for core in (self.first, self.interior, self.last))
        inside = [interior[min(k, len(interior) - 1)] for k in range(self.sites - 2)]
        cores = zip(vectors, (first[:, None, :], *inside, last), strict=True)
        summed = [field.multiply(v, core.reshape(len(core), -1)).reshape(-1, *core.shape[1:]) for v, core in cores]
        return chain_scores(summed, field)

    @torch.no_grad()
    def compressed(self, rank: int, metrics: Float[Tensor, "sites modes modes"], to: str) -> ScoreTensor:
        """TT rounding, to different cores; a bond that needs less than ``rank`` is filled up with zeros."""
        self.check_compression(rank, to)
        cores = round_chain([core.detach().double().cpu() for core in self.cores()], rank, metrics).cores
        padded = torch.zeros(self.sites, rank, self.mode_size, rank, dtype=torch.float64)
        for site, core in enumerate(cores[:-1]):
            padded[site, : core.shape[0], :, : core.shape[2]] = core
        last = torch.zeros(rank, self.mode_size, self.classes, dtype=torch.float64)
        last[: len(cores[-1])] = cores[-1]
        return self._with_cores(TensorTrain, padded[0, 0], padded[1:-1].transpose(1, 2), last.transpose(0, 1))

    def check_compression(self, rank: int, to: str) -> None:
        if to not in self.compressed_to:
            raise UserError(f"{self.name} has different cores, which no rounding makes {to}: use --to different")
        require_at_least(self.name, "rank", rank, 1)
        if rank > self.rank:
            raise UserError(f"{self.name}: rank is {rank}, it must be at most {self.rank}, the rank of the network")

    def _with_cores(self, kind: type["TensorTrain"], first: Tensor, interior: Tensor, last: Tensor) -> "TensorTrain":
        """A tensor train of ``kind`` with these cores, in the type of this one's."""
        with torch.device("meta"):
            format = kind(self.sites, self.mode_size, self.classes, first.shape[1])
        cores = {"first": first, "interior": interior, "last": last}
        kept = {name: core.to(self.first).contiguous() for name, core in cores.items()}
        format.load_state_dict(kept, assign=True)
        return format

    def _distinct_interior_cores(self) -> int:
        return self.sites - 2


class EqualCoreTensorTrain(TensorTrain):
    r"""Tensor train whose interior cores are all one core, G_2 = ... = G_{d-1} = G ([A24]; uniform MPS in physics).

    A recurrent network with a single cell; the first and the last core stay free.
    Width: TT-rank r. Parameters: n r + n r^2 + n r C, for any number of sites. CP-rank of almost every such tensor: as
    with different cores; published: min(n, r-1)^floor(d/2) [A24].
    ``interior`` has the shape (1, modes, rank, rank), or (0, modes, rank, rank) for two sites.
    """

    kind = "equal cores"
    any_length = True
    compressed_to = ("equal", "different")

    @in_full_precision
    def scaled_scores_of_lengths(
        self, features: Float[Tensor, "batch sites modes"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        return chain_scores_of_lengths(features, lengths, self.first, self.interior, self.last)

    def of_length(self, sites: int) -> "EqualCoreTensorTrain":
        """A chain of two sites has no interior core; it cannot be made longer."""
        if sites == self.sites:
            return self
        require_at_least(self.name, "sites", sites, 2)
        if self.sites == 2:
            raise UserError(f"{self.name} of 2 sites has no interior core, so it has no tensor of {sites} sites")
        with torch.device("meta"):
            other = EqualCoreTensorTrain(sites, self.mode_size, self.classes, self.rank)
        other.first, other.last = self.first, self.last
        other.interior = self.interior if sites > 2 else nn.Parameter(self.interior[:0])
        return other.train(self.training)

    def published_bound(self) -> int:
        return cp_rank_bound_a24(self.mode_size, self.rank, self.sites)

    @torch.no_grad()
    def compressed(self, rank: int, metrics: Float[Tensor, "sites modes modes"], to: str) -> ScoreTensor:
        """To equal cores, one projection for all bonds and L-BFGS from there; to different cores, TT rounding."""
        if to != "equal":
            return super().compressed(rank, metrics, to)
        self.check_compression(rank, to)
        if rank == self.rank:
            return self._with_cores(type(self), self.first, self.interior, self.last)
        first, last = self.first.double().cpu(), self.last.double().cpu()
        core = self.interior[0].double().cpu() if len(self.interior) else first.new_zeros(*first.shape, self.rank)
        start = project_equal(first, core, last, rank, metrics)
        first, core, last = fit_equal(equal_chain(first, core, last, self.sites), start, metrics)
        return self._with_cores(type(self), first, core.unsqueeze(0)[: len(self.interior)], last)

    def _distinct_interior_cores(self) -> int:
        return min(1, self.sites - 2)
