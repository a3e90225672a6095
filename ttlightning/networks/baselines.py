r"""What else would be trained on the same patches: four networks without a weight tensor.

They take the place of the tensor format, ``--model.format CNN``, and read the pixels of all patches with
``--model.features Pixels``. With other features they read those. d sites, n features of each, C classes:

    LogisticRegression   score = A x + b,   x all d n features                                C (d n + 1) parameters
    MLP                  one hidden layer of ``width`` units, GELU
    CNN                  two convolutions over the image that the patches tile
    LSTM                 the patches in their order, and a linear map of the last state
"""

import math
from typing import ClassVar, Final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning.errors import UserError
from ttlightning.formats import ScoreFunction
from ttlightning.formats.base import require_at_least

__all__ = ["CNN", "LSTM", "MLP", "LogisticRegression"]

Features = Float[Tensor, "batch sites modes"]
Scores = Float[Tensor, "batch classes"]

KERNEL: Final = 5
STRIDE: Final = 2


class LogisticRegression(ScoreFunction):
    """score = A x + b. Parameters: C (d n + 1)."""

    kind = "logistic regression"

    def __init__(self, sites: int, mode_size: int, classes: int) -> None:
        super().__init__(sites, mode_size, classes)
        self.linear = nn.Linear(sites * mode_size, classes)

    def scores(self, features: Features) -> Scores:
        return self.linear(features.flatten(1))


class MLP(ScoreFunction):
    """score = B gelu(A x + a) + b. Parameters: w (d n + 1) + C (w + 1) for width w.

    Args:
        sites: d.
        mode_size: n, features per site.
        classes: C.
        width: w, hidden units.
    """

    sizes = (*ScoreFunction.sizes, "width")
    kind = "multilayer perceptron"

    def __init__(self, sites: int, mode_size: int, classes: int, width: int = 64) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "width", width, 1)
        self.width = width
        self.hidden, self.last = nn.Linear(sites * mode_size, width), nn.Linear(width, classes)

    def scores(self, features: Features) -> Scores:
        return self.last(F.gelu(self.hidden(features.flatten(1))))


class CNN(ScoreFunction):
    """Two convolutions of 5 x 5 with stride 2 and GELU, w and 2 w channels, and a linear map of all that is left.

    The sites are the patches that tile a square image, row by row; their features are glued to an image again.
    Parameters: w (25 c + 1) + 2 w (25 w + 1) + C (2 w s^2 + 1) for c channels of the image and s x s pixels left.

    Args:
        sites: d, a square number.
        mode_size: n = c p^2, for patches of p x p pixels.
        classes: C.
        width: w, channels of the first convolution.
        channels: c, channels of the image.

    Raises:
        UserError: a number of sites or features that tiles no square image, or an image below 13 x 13 pixels.
    """

    sizes: ClassVar[tuple[str, ...]] = (*ScoreFunction.sizes, "width", "channels")
    kind = "convolutional network"
    needs_whole_images = True

    def __init__(self, sites: int, mode_size: int, classes: int, width: int = 16, channels: int = 1) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "width", width, 1)
        require_at_least(self.name, "channels", channels, 1)
        self.width, self.channels = width, channels
        self.grid, self.patch = math.isqrt(sites), math.isqrt(mode_size // channels)
        if self.grid**2 != sites or channels * self.patch**2 != mode_size:
            raise UserError(
                f"CNN: {sites} sites of {mode_size} features tile no square image of {channels} channels: use "
                "--model.features Pixels, a square grid of square patches, and --model.format.channels 3 for colours"
            )
        left = _left(_left(self.grid * self.patch))
        if left < 1:
            raise UserError(f"CNN: the image is {self.grid * self.patch} pixels wide, it must be at least 13")
        self.first = nn.Conv2d(channels, width, KERNEL, STRIDE)
        self.second = nn.Conv2d(width, 2 * width, KERNEL, STRIDE)
        self.last = nn.Linear(2 * width * left**2, classes)

    def scores(self, features: Features) -> Scores:
        patches = features.unflatten(2, (self.channels, self.patch, self.patch))
        rows = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 4, 2, 5)
        image = rows.flatten(4, 5).flatten(2, 3)
        return self.last(F.gelu(self.second(F.gelu(self.first(image)))).flatten(1))

    def multiplications(self) -> int:
        once = _left(self.grid * self.patch)
        return once**2 * self.first.weight.numel() + _left(once) ** 2 * self.second.weight.numel()


class LSTM(ScoreFunction):
    """torch's LSTM over the sites in their order, and a linear map of its last state.

    Parameters: 4 w (n + w + 2) + C (w + 1) for width w.

    Args:
        sites: d.
        mode_size: n, features per site.
        classes: C.
        width: w, entries of the state.
    """

    sizes = (*ScoreFunction.sizes, "width")
    kind = "recurrent network"

    def __init__(self, sites: int, mode_size: int, classes: int, width: int = 64) -> None:
        super().__init__(sites, mode_size, classes)
        require_at_least(self.name, "width", width, 1)
        self.width = width
        self.cells, self.last = nn.LSTM(mode_size, width, batch_first=True), nn.Linear(width, classes)

    def scores(self, features: Features) -> Scores:
        return self.last(self.cells(features)[0][:, -1])

    def multiplications(self) -> int:
        return self.sites * self.parameter_count()


def _left(pixels: int) -> int:
    """Pixels along a side after a convolution."""
    return (pixels - KERNEL) // STRIDE + 1
