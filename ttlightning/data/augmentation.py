r"""Augmentation: random maps of the training images, affine and elastic, with new numbers in every epoch.

image'(u) = image(M u + t + b(u)),   M = [[s_x cos a, h - s_y sin a], [s_x sin a, s_y cos a]],   t whole pixels,
b(u) = the bicubic surface through normal displacements at the 5 x 5 points of a grid over the image,

around the centre of the image, with bilinear interpolation, black beyond the edges. The numbers of a batch are a
function of (seed, epoch, step). They are drawn for the global batch and then sliced. The last epochs can do without:
a network that ends on the images as they are is better on them [He et al. 2019, arXiv 1909.09148].
"""

import math
from dataclasses import astuple, dataclass
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from ttlightning.data.patches import Patching
from ttlightning.data.sampler import TrainingBatches
from ttlightning.errors import UserError
from ttlightning.randomness import keyed_generator

KNOTS: Final = 5
"""Points of the grid of displacements, across and down."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random maps; all zero means no augmentation.

    Args:
        shift: pixels, down and across: t is uniform on the whole numbers from -shift to shift.
        rotation: degrees: a is uniform from -rotation to rotation.
        scaling: s_x and s_y are uniform from 1 - scaling to 1 + scaling.
        shear: h is uniform from -shear to shear.
        flip: whether every second image, drawn at random, is mirrored left to right after its map.
        elastic: pixels: the standard deviation of the displacements of b, across and down.
        epochs: how many epochs have augmented images, from the first on; None for all. Those after it have plain ones.

    Raises:
        UserError: a negative range, a scaling of 1 or more, fewer than one epoch, or epochs without any range.
    """

    shift: int = 0
    rotation: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    flip: bool = False
    elastic: float = 0.0
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("shift", "rotation", "scaling", "shear", "elastic"):
            if not 0 <= getattr(self, name) < math.inf:  # nan is not
                raise UserError(f"data.augmentation.{name} is {getattr(self, name)}, it must be finite and at least 0")
        if self.scaling >= 1:
            raise UserError(f"data.augmentation.scaling is {self.scaling}, it must be below 1")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"data.augmentation.epochs is {self.epochs}, it must be at least 1, or null for all epochs")
        if self.epochs is not None and not self:
            where = f"data.augmentation.epochs is {self.epochs}"
            raise UserError(f"{where}, and the augmentation changes no image: use --data.augmentation.epochs null")

    def __bool__(self) -> bool:
        return any(astuple(self)[:-1])  # without epochs

    def maps(self, samples: int, height: int, width: int, generator: torch.Generator) -> Float[Tensor, "samples 2 3"]:
        """(M | t) of ``samples`` images, in the coordinates of ``torch.nn.functional.affine_grid``: -1 to 1."""
        uniform = 2 * torch.rand(samples, 4, generator=generator) - 1
        angle = uniform[:, 0] * torch.pi / 180 * self.rotation
        across, down = 1 + uniform[:, 1] * self.scaling, 1 + uniform[:, 2] * self.scaling
        shift = torch.randint(-self.shift, self.shift + 1, (samples, 2), generator=generator)
        maps = torch.empty(samples, 2, 3)
        maps[:, 0, 0], maps[:, 0, 1] = across * angle.cos(), uniform[:, 3] * self.shear - down * angle.sin()
        maps[:, 1, 0], maps[:, 1, 1] = across * angle.sin(), down * angle.cos()
        maps[:, :, 2] = shift * torch.tensor([2 / width, 2 / height])
        if self.flip:  # drawn last, so that the other numbers do not depend on it
            maps[:, :, 0] *= torch.randint(0, 2, (samples, 1), generator=generator) * 2.0 - 1
        return maps

    def bends(
        self, samples: int, height: int, width: int, generator: torch.Generator
    ) -> Float[Tensor, "samples 2 knots knots"] | None:
        """Displacements at the knots, across and down, in units of half an image; None where elastic is 0."""
        if not self.elastic:
            return None
        normal = torch.randn(samples, 2, KNOTS, KNOTS, generator=generator)
        return normal * torch.tensor([2 * self.elastic / width, 2 * self.elastic / height]).view(2, 1, 1)

    def __call__(
        self,
        images: UInt8[Tensor, "batch channels height width"],
        maps: Float[Tensor, "batch 2 3"],
        bends: Float[Tensor, "batch 2 knots knots"] | None = None,
    ) -> UInt8[Tensor, "batch channels height width"]:
        """The images, each transformed by its map, and bent by its displacements where there are any."""
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        if bends is not None:
            size = list(images.shape[-2:])
            grid += F.interpolate(bends, size, mode="bicubic", align_corners=True).movedim(1, -1)
        return F.grid_sample(images.float(), grid, align_corners=False).round_().to(torch.uint8)


class AugmentedBatches(TrainingBatches):
    """``TrainingBatches`` of images that are augmented and then cut into patches."""

    def __init__(self, patching: Patching, augmentation: Augmentation, *inputs: Any) -> None:
        super().__init__(*inputs)
        self.patching, self.augmentation = patching, augmentation

    def take(self, indices: Tensor, start: int, global_size: int, epoch: int, step: int) -> Tensor:
        images = self.inputs[indices]
        if self.augmentation.epochs is not None and epoch >= self.augmentation.epochs:
            return self.patching(images)
        generator, share = keyed_generator(self.seed, "augmentation", epoch, step), slice(start, start + len(images))
        size = (global_size, *images.shape[-2:])
        maps, bends = self.augmentation.maps(*size, generator), self.augmentation.bends(*size, generator)
        return self.patching(self.augmentation(images, maps[share], None if bends is None else bends[share]))
