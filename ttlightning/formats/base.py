r"""The interface that all tensor formats share.

score_y(f_1, ..., f_d) = sum over i_1..i_d of  W_y[i_1, ..., i_d] f_1[i_1] ... f_d[i_d]        [K18, Eq. 3]
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final, NamedTuple, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.kernels.derivatives import in_full_precision
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.formats.modular import Field, Residues
from ttlightning.formats.moments import chain_moments

NUMBERS_AT_ONCE: Final = 4_000_000
"""Features of a grid in memory at once, 32 MB in float64."""


class StaircaseCores(NamedTuple):
    """The cores of a tensor train whose TT-ranks are all r, as the staircase needs them (``rank/staircase.py``)."""

    first: Float[Tensor, "modes rank"]
    interior: Float[Tensor, "distinct modes rank rank"]
    """of every interior site, or one core that all interior sites share"""
    last: Float[Tensor, "modes rank classes"]


class ScoreFunction(nn.Module, ABC):
    """Scores of all classes from the features of all sites.

    A function of your own defines ``scores``, and ``sizes`` if its constructor has more of them; that is enough for
    training and all that follows from scores. Ranks, widths and certificates are for ``ScoreTensor``, a function that
    is linear in the features of each site.

    Shapes:
        features ``(batch, sites, mode_size)`` -> scores ``(batch, classes)``.

    Raises:
        UserError: at construction, if a size is too small; at a call, if the features do not have the shape
            ``(batch, sites, mode_size)``.
    """

    sizes: ClassVar[tuple[str, ...]] = ("sites", "mode_size", "classes")
    """Integers of the constructor, attributes of the same names: with its weights they make the function again."""

    kind: ClassVar[str | None] = None
    """The papers' term for the network that the format describes, a tag in W&B; None: there is none."""

    needs_whole_images: ClassVar[bool] = False
    """Whether the sites must be the patches that tile a square image, row by row."""

    def __init__(self, sites: int, mode_size: int, classes: int) -> None:
        super().__init__()
        for name, value, least in (("sites", sites, 2), ("mode_size", mode_size, 1), ("classes", classes, 1)):
            require_at_least(self.name, name, value, least)
        self.sites, self.mode_size, self.classes = sites, mode_size, classes

    @abstractmethod
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        """``forward`` without the check of the shape."""

    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Scores as ``mantissa * 2**exponent``, with one exponent for each sample; here it is 0."""
        scores = self.scores(features)
        return scores, torch.zeros_like(scores[:, 0], dtype=torch.int32)

    any_length: ClassVar[bool] = False
    """Whether the same parameters describe a function of every number of sites: ``scaled_scores_of_lengths``."""

    def scaled_scores_of_lengths(
        self, features: Float[Tensor, "batch sites modes"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Scores of sequences: sample b has the scores of its first ``lengths[b]`` sites, by the same parameters.

        What lies behind the end of a sequence has no influence and the gradient 0. ``features`` may have fewer sites
        than the format.

        Raises:
            UserError: the format has parameters per site; a length below 2 or above the number of sites.
        """
        raise UserError(self.has_one_length())

    def has_one_length(self, asked: str = "sequences of different lengths") -> str:
        """The line that refuses ``asked``, for a format with parameters per site."""
        return (
            f"{self.name} has parameters for each of {self.sites} sites and none for {asked}: use EqualCoreTensorTrain"
        )

    def weight_tensor(self) -> "ScoreTensor | None":
        """This function as a weight tensor; None: it is not linear in the features of each site."""
        return None

    def multiplications(self) -> int:
        """About how many multiplications a sample costs."""
        return self.parameter_count()

    def described_sizes(self) -> str:
        """The sizes in the line that ``fit`` prints."""
        own = "".join(f"{name.replace('_', ' ')} {getattr(self, name)}, " for name in self.sizes[3:])
        return f"d = {self.sites} sites, {own}{self.classes} classes"

    @property
    def name(self) -> str:
        """The name of the format in records, tags and messages: the class's own."""
        return type(self).__name__

    __call__: Callable[..., Tensor]  # of nn.Module, which gives a type checker Any

    def forward(
        self, features: Float[Tensor, "batch sites modes"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Scores of all classes; a score that the floating-point type cannot hold becomes 0 or inf.

        With ``lengths``, of sequences: see ``scaled_scores_of_lengths``.
        """
        self._check(features, lengths)
        if lengths is None:
            return self.scores(features)
        return scale_by_power_of_two(*self.scaled_scores_of_lengths(features, lengths))

    def __prepare_scriptable__(self) -> NoReturn:
        """What ``torch.jit.script`` asks first; its language has no tensor formats."""
        raise UserError(f"torch.jit.script cannot compile {self.name}, use torch.export.export or torch.compile")

    def parameter_count(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def extra_repr(self) -> str:
        order = (*self.sizes[:2], *self.sizes[3:], "classes")
        return ", ".join(f"{name}={getattr(self, name)}" for name in order)

    def _check(self, features: Tensor, lengths: Tensor | None = None) -> None:
        fewest = self.sites if lengths is None else 2
        inside = features.ndim == 3 and fewest <= features.shape[1] <= self.sites
        if not inside or features.shape[2] != self.mode_size:
            raise UserError(
                f"{self.name} takes features of shape (batch, {self.sites}, {self.mode_size}) "
                f"= (batch, sites, mode_size), got {tuple(features.shape)}"
            )


class ScoreTensor(ScoreFunction):
    r"""``classes`` weight tensors with ``sites`` modes of size ``mode_size``, which are never stored in full.

    The contract: the scores are linear in the features of every single site, with the other sites fixed. Everything
    else follows. The scores at one-hot features are an entry of W; the scores on a grid of features are a matricization
    of W. Code outside this folder need not know how W is decomposed.

    A format of your own defines ``rank`` and ``scaled_scores``; that is enough for training, rank checks and figures.
    It needs ``exact_scores`` for certificates. ``kind``, ``shallow``, ``generic_rank``, ``published_bound``, ``cores``
    and ``staircase_cores`` say more about it; their defaults say that nothing is known.
    ``ttlightning.testing.check_format`` tests all of it.

    Shapes:
        features ``(batch, sites, mode_size)`` -> scores ``(batch, classes)``.

    Raises:
        UserError: at construction, if a size is too small for the format; at a call, if the features do not have the
            shape ``(batch, sites, mode_size)``.
    """

    sizes = (*ScoreFunction.sizes, "rank")

    shallow: ClassVar[bool] = False
    """Whether ``rank`` bounds the CP-rank of every class tensor from above, as in a sum of ``rank`` products."""

    compressed_to: ClassVar[tuple[str, ...]] = ()
    """Kinds of cores that ``compressed`` can give, its own first."""

    why_not_compressed: ClassVar[str] = "is no chain, whose bonds are truncated one after the other"
    """What ``compressed`` says of a format without a rounding."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """The width r of the network that the format describes (TT-rank, CP-rank, HT-rank)."""

    @abstractmethod
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        r"""Scores as ``mantissa * 2**exponent``, with one exponent for each sample.

        Powers of two are exact. Splitting them off changes no bit of a score that the floating-point type can hold, and
        keeps scores that it cannot hold, for any number of sites. Only what has no exponent of its own must stay in
        range: the product of features and core at a single site, and the entries of one state relative to the largest.
        Entries smaller than the largest by more than the range of the type count as 0.

        The mantissa is differentiable any number of times; the exponent is a constant.
        """

    def scaled_scores_on_grid(
        self, rows: Float[Tensor, "rows odd modes"], columns: Float[Tensor, "columns even modes"]
    ) -> tuple[Float[Tensor, "rows columns classes"], Int[Tensor, "rows columns"]]:
        """Mantissa and exponent of the scores at the odd sites of every row and the even sites of every column.

        Sites are counted from 1. A format overrides it if it can share work between the pairs.
        """
        mantissas, exponents = [], []
        for chunk in rows.split(max(1, NUMBERS_AT_ONCE // (len(columns) * self.sites * self.mode_size))):
            features = columns.new_empty(len(chunk), len(columns), self.sites, self.mode_size)
            features[:, :, 0::2] = chunk.unsqueeze(1)
            features[:, :, 1::2] = columns.unsqueeze(0)
            mantissa, exponent = self.scaled_scores(features.flatten(0, 1))
            mantissas.append(mantissa.view(len(chunk), len(columns), self.classes))
            exponents.append(exponent.view(len(chunk), len(columns)))
        return torch.cat(mantissas), torch.cat(exponents)

    def roundings(self) -> int | None:
        """The most roundings of a term of ``scaled_scores_on_grid``, for a proven error bound; None: not known.

        For a format whose scores are sums of products of its parameters and features, each term with the coefficient 1.
        """
        return None

    def spectral_moments(
        self, metrics: Float[Tensor, "sites modes modes"]
    ) -> tuple[Float[Tensor, " classes_and_all"], Float[Tensor, " classes_and_all"]] | None:
        """tr(P P^T) and tr((P P^T)^2) of the odd/even matricization P of every class, and of all classes side by side.

        Each with an arbitrary common scale c: the traces are times c and c^2. None: the format has no formula.

        Args:
            metrics: M_k, positive semidefinite; site k of the tensor is multiplied by M_k^(1/2).
        """
        cores = self.cores()
        return None if cores is None else chain_moments(cores, metrics)

    def weight_tensor(self) -> "ScoreTensor":
        return self

    def multiplications(self) -> int:
        return self.sites * self.mode_size * self.rank**2

    def described_sizes(self) -> str:
        return f"d = {self.sites} sites, rank r = {self.rank}, {self.classes} classes"

    def generic_rank(self) -> int | None:
        """Rank of the odd/even matricization of almost every tensor of this format and size; None: not known."""
        return None

    def published_bound(self) -> int | None:
        """The published lower bound on the CP-rank of almost every such tensor; None: not known."""
        return None

    def cores(self) -> list[Float[Tensor, "left modes right"]] | None:
        """TT-cores (r_{k-1}, n, r_k) of W[i_1..i_d, y], r_0 = 1, r_d = classes; None: the format has no bonds."""
        return None

    def compressed(self, rank: int, metrics: Float[Tensor, "sites modes modes"], to: str) -> "ScoreTensor":
        """A tensor of smaller width ``rank`` near this one, of a format of this package (``formats/rounding.py``).

        Computed in float64; the weights have the type of this tensor's.

        Args:
            rank: at most this tensor's.
            metrics: M_k of every site, positive definite, float64; the distance is measured after a multiplication of
                site k by M_k^(1/2).
            to: ``equal`` or ``different`` cores.

        Raises:
            UserError: as ``check_compression``.
        """
        self.check_compression(rank, to)
        raise NotImplementedError(f"{self.name} has check_compression and no compressed")

    def check_compression(self, rank: int, to: str) -> None:
        """Raise ``UserError`` where the format has no such rounding, or the network no such rank."""
        raise UserError(f"{self.name} {self.why_not_compressed}; train it at the smaller rank")

    def staircase_cores(self) -> StaircaseCores | None:
        """What the staircase certifies without a sample; None: the format is no tensor train of one TT-rank."""
        return None

    def exact_scores(self, vectors: Sequence[Residues], field: Field) -> Iterable[Residues]:
        """Scores modulo ``field.prime`` at every choice of one feature vector for each site, class by class.

        Args:
            vectors: for each site its feature vectors, (count_s, mode_size).
            field: the arithmetic; ``field.residues`` gives the exact images of the weights.

        Returns:
            For each class count_1 * ... * count_d residues in one dimension, the last site's choice fastest.

        Raises:
            UserError: if the format does not define this method, or a weight is not finite.
        """
        raise UserError(f"{self.name} has no method exact_scores, which a certificate is counted from")

    def of_length(self, sites: int) -> "ScoreTensor":
        """The format of ``sites`` sites with the same parameters, which it shares; see ``any_length``.

        Raises:
            UserError: ``sites`` is below 2, or another number than the format's own and it has parameters per site.
        """
        if sites != self.sites:
            raise UserError(self.has_one_length(f"a tensor of {sites} sites"))
        return self

    @in_full_precision
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        """``forward`` without the check of the shape. A format overrides it if exponents cost time."""
        return scale_by_power_of_two(*self.scaled_scores(features))


def require_at_least(owner: str, name: str, value: int, least: int) -> None:
    """Raise ``UserError`` unless ``value`` is ``least`` or more."""
    if value < least:
        raise UserError(f"{owner}: {name} is {value}, it must be at least {least}")
