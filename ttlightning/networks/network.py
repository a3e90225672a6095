r"""The network from pixels to scores: patches, feature map, weight tensor.

score_y(x_1, ..., x_d) = < W_y, f(x_1 - m) o f(x_2 - m) o ... o f(x_d - m) >           [K18, Sec. 2]
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ttlightning.data.arrays import as_images, check_pixels
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.errors import Fault, UserError
from ttlightning.formats import ScoreFunction
from ttlightning.formats.kernels.scales import below_the_largest
from ttlightning.networks.features import PatchFeatureMap

# Factories in a configuration, with their arguments.
FeatureMapFactory = Callable[[int], PatchFeatureMap]  # (patch_dim)
ScoreFunctionFactory = Callable[[int, int, int], ScoreFunction]  # (sites, mode_size, classes)

Patches = Float[Tensor, "batch sites patch_dim"]
Keep = Bool[Tensor, "batch sites"]
Scores = Float[Tensor, "batch classes"]


class Network(nn.Module):
    """One feature map for all patches, then a weight tensor in a tensor format, or another function of the features.

    Args:
        features: f, patches to features.
        format: W, the score tensor; or a ``ScoreFunction`` that is none.
        pixel_mean: m, subtracted from pixels in [0, 1]; a dropped patch has this value.
        patching: how an image is cut into patches.
        image_shape: channels, height and width of an image.
        class_names: names of the classes in the order of their scores.
        unit_pixels: whether pixels are in [0, 1]; False for points, and for pixels that a transform has scaled.

    Shapes:
        patches ``(batch, sites, patch_dim)``, floats in [0, 1] -> scores ``(batch, classes)``.
    """

    def __init__(
        self,
        features: PatchFeatureMap,
        format: ScoreFunction,
        pixel_mean: float = 0.0,
        patching: Patching | None = None,
        image_shape: tuple[int, int, int] | None = None,
        class_names: Sequence[str] = (),
        unit_pixels: bool = True,
    ) -> None:
        super().__init__()
        self.features, self.format, self.pixel_mean = features, format, pixel_mean
        self.patching, self.image_shape, self.class_names = patching, image_shape, tuple(class_names)
        self.unit_pixels = unit_pixels

    __call__: Callable[..., Tensor]  # of nn.Module, which gives a type checker Any

    def forward(self, patches: Patches, keep: Keep | None = None) -> Scores:
        """Scores of all classes; ``keep`` is False for a dropped patch, whose pixels become ``pixel_mean``.

        Raises:
            UserError: patches of integers, or of another shape than the format's.
        """
        return self.format(self.embed(patches, keep))

    def embed(self, patches: Patches, keep: Keep | None = None) -> Float[Tensor, "batch sites modes"]:
        """Features of all patches."""
        if not patches.is_floating_point():
            raise UserError(
                f"patches are {patches.dtype}, they must be floats in [0, 1]: use ttlightning.data.pixels.scaled"
            )
        pixels = patches.to(next(self.format.parameters()).dtype) - self.pixel_mean
        if keep is not None:
            pixels = pixels * keep.unsqueeze(-1)
        return self.features(pixels)

    def below_the_largest(self, patches: Patches) -> Scores:
        """Each score minus the largest score of its sample, also if the scores themselves overflow.

        Softmax and cross-entropy depend on these differences only.
        """
        features = self.embed(patches)
        self.format._check(features)
        return below_the_largest(*self.format.scaled_scores(features))

    def finite_scores(self, patches: Patches) -> Scores:
        """Each score minus the largest score of its sample, whose softmax are the probabilities.

        Raises:
            Fault: a score is NaN or infinite.
        """
        scores = self.below_the_largest(patches)
        if lost := int(scores.isnan().any(1).sum()):
            raise Fault(
                f"scores of {lost} of the {len(scores)} samples of a batch are not finite: nothing is predicted"
            )
        return scores

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 2000) -> Scores:
        """Probabilities of all classes, softmax(score), the numbers that the command ``predict`` writes.

        Args:
            images: numpy or torch, uint8 or floats in [0, 1]: one image ``(height, width)``, ``(channels, height,
                width)`` or ``(height, width, channels)``, or many of them ``(samples, ...)``. Pictures of Pillow and
                lists are read as arrays. Points are floats of any range ``(samples, coordinates)``.
            batch_size: images in one pass. The last bits can depend on it; 2000 is the default of the commands.

        Returns:
            ``(samples, classes)``; one image has one row.

        Raises:
            UserError: the network has no patching, or the images have another shape, type or range.
            Fault: a score is NaN or infinite.
        """
        return torch.cat([self.finite_scores(patches).softmax(-1) for patches in self._cut(images, batch_size)])

    @torch.no_grad()
    def score_images(self, images: Any, batch_size: int = 2000) -> Scores:
        """Scores of images, without gradients; arguments and errors are those of ``predict``."""
        return torch.cat([self(patches) for patches in self._cut(images, batch_size)])

    def _cut(self, images: Any, batch_size: int) -> Iterator[Patches]:
        """The patches of ``batch_size`` images at a time, on the device of the weights."""
        if self.patching is None or self.image_shape is None:
            raise UserError("this network has no patching: ttlightning.load gives one that scores images")
        pixels, weight = as_images(images, self.image_shape), next(self.format.parameters())
        check_pixels(pixels, self.unit_pixels)
        for part in pixels.split(batch_size):
            yield scaled(self.patching(part), weight.dtype).to(weight.device)
