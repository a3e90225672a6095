r"""The interface that all tensor formats share.

score_y(f_1, ..., f_d) = sum over i_1..i_d of  W_y[i_1, ..., i_d] f_1[i_1] ... f_d[i_d]        [K18, Eq. 3]
"""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.formats.kernels.derivatives import in_full_precision
from ttlightning.formats.kernels.scales import scale_by_power_of_two


class ScoreTensor(nn.Module, ABC):
    r"""For each of ``classes`` classes a weight tensor with ``sites`` modes of size ``mode_size``, never stored whole.

    The contract: the map from features to scores is linear in the features of every single site, the others held
    fixed. Everything else follows from it. An entry of W is the map at one-hot features; a matricization of W is
    the map on a grid of features; no code outside the format needs to know how W is decomposed.

    Shapes:
        features ``(batch, sites, modes)`` -> scores ``(batch, classes)``.

    Raises:
        UserError: at construction, where a size is too small for the format; at a call, where the features do not
            have the shape ``(batch, sites, mode_size)``.
    """

    def __init__(self, sites: int, mode_size: int, classes: int) -> None:
        super().__init__()
        for name, value, least in (("sites", sites, 2), ("mode_size", mode_size, 1), ("classes", classes, 1)):
            require_at_least(type(self).__name__, name, value, least)
        self.sites, self.mode_size, self.classes = sites, mode_size, classes

    @property
    @abstractmethod
    def rank(self) -> int:
        """The width r of the network that the format describes (TT-rank, CP-rank, HT-rank)."""

    @abstractmethod
    def scaled_scores(
        self, features: Float[Tensor, "batch sites modes"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        r"""Scores as ``mantissa * 2**exponent``, one exponent for each sample.

        The exponents are integers and powers of two are exact, so that splitting the scale off changes no bit of a
        score that the floating-point format can hold, and keeps those that it cannot, however many sites there are and
        however their sizes differ. What has no scale of its own must fit beside the largest: the product of feature
        and core at a single site into the range of the format, and the numbers of one state, or the units of a site,
        among each other; those smaller than the largest by more than that range count as 0.

        Differentiable as often as one likes, the exponent being a constant.
        """

    def forward(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        """Scores of all classes; an entry that the floating-point format cannot hold becomes 0 or inf."""
        self._check(features)
        return self.scores(features)

    @in_full_precision
    def scores(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        """``forward`` without the look at the shape; for a format that has a shorter way than through the exponents."""
        return scale_by_power_of_two(*self.scaled_scores(features))

    def parameter_count(self) -> int:
        """Number of trainable numbers of the decomposition."""
        return sum(p.numel() for p in self.parameters())

    def extra_repr(self) -> str:
        return f"sites={self.sites}, mode_size={self.mode_size}, rank={self.rank}, classes={self.classes}"

    def _check(self, features: Tensor) -> None:
        if features.ndim != 3 or features.shape[1:] != (self.sites, self.mode_size):
            raise UserError(
                f"{type(self).__name__} takes features of shape (batch, {self.sites}, {self.mode_size}) "
                f"= (batch, sites, mode_size), got {tuple(features.shape)}"
            )


def require_at_least(owner: str, name: str, value: int, least: int) -> None:
    """Raise ``UserError`` unless the integer ``value`` is ``least`` or more."""
    if value < least:
        raise UserError(f"{owner}: {name} is {value}, it must be at least {least}")
