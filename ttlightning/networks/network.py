r"""The network from pixels to scores: patches, feature map, weight tensor.

score_y(x_1, ..., x_d) = < W_y, f(x_1 - m) o f(x_2 - m) o ... o f(x_d - m) >           [K18, Sec. 2]
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ttlightning.data.arrays import as_images, check_pixels
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.data.windows import are_sequences, as_sequences, is_sequence, windows_of
from ttlightning.errors import Fault, UserError
from ttlightning.formats import ScoreFunction
from ttlightning.formats.kernels.scales import below_the_largest
from ttlightning.networks.features import PatchFeatureMap

# Factories in a configuration, with their arguments.
FeatureMapFactory = Callable[[int], PatchFeatureMap]  # (patch_dim)
ScoreFunctionFactory = Callable[[int, int, int], ScoreFunction]  # (sites, mode_size, classes)

Patches = Float[Tensor, "batch sites patch_dim"]
Keep = Bool[Tensor, "batch sites"]
Lengths = Int[Tensor, " batch"]
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
        if pixel_mean and getattr(features, "takes_bytes", False):
            raise UserError(
                f"model.pixel_mean is {pixel_mean}, but {type(features).__name__} looks bytes up: leave it out"
            )
        self.features, self.format, self.pixel_mean = features, format, pixel_mean
        self.patching, self.image_shape, self.class_names = patching, image_shape, tuple(class_names)
        self.unit_pixels = unit_pixels

    __call__: Callable[..., Tensor]  # of nn.Module, which gives a type checker Any

    def forward(self, patches: Patches, keep: Keep | None = None, lengths: Lengths | None = None) -> Scores:
        """Scores of all classes.

        Args:
            keep: False for a dropped patch, whose pixels become ``pixel_mean``.
            lengths: sites of each sequence; what lies behind has no influence.

        Raises:
            UserError: patches of integers, or of another shape than the format's; lengths, and the format has a core
                for each site.
        """
        if lengths is None:  # a format of the user's own need not know of lengths
            return self.format(self.embed(patches, keep))
        return self.format(self.embed(patches, keep), lengths)

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

    def below_the_largest(self, patches: Patches, lengths: Lengths | None = None) -> Scores:
        """Each score minus the largest score of its sample, also if the scores themselves overflow.

        Softmax and cross-entropy depend on these differences only.
        """
        features = self.embed(patches)
        self.format._check(features, lengths)
        if lengths is None:
            return below_the_largest(*self.format.scaled_scores(features))
        return below_the_largest(*self.format.scaled_scores_of_lengths(features, lengths))

    def finite_scores(self, patches: Patches, lengths: Lengths | None = None) -> Scores:
        """Each score minus the largest score of its sample, whose softmax are the probabilities.

        Raises:
            Fault: a score is NaN or infinite.
        """
        scores = self.below_the_largest(patches, lengths)
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
                lists are read as arrays. Points are floats of any range ``(samples, coordinates)``. Where the network's
                images are sequences, of one row: one sequence, or a list of sequences of different lengths; text as
                ``str`` or ``bytes``.
            batch_size: images in one pass. The last bits can depend on it; 2000 is the default of the commands.

        Returns:
            ``(samples, classes)``; one image has one row.

        Raises:
            UserError: the network has no patching, or the images have another shape, type or range.
            Fault: a score is NaN or infinite.
        """
        return torch.cat([self.finite_scores(*part).softmax(-1) for part in self._cut(images, batch_size)])

    @torch.no_grad()
    def score_images(self, images: Any, batch_size: int = 2000) -> Scores:
        """Scores of images, without gradients; arguments and errors are those of ``predict``."""
        return torch.cat([self(patches, None, lengths) for patches, lengths in self._cut(images, batch_size)])

    def _cut(self, images: Any, batch_size: int) -> Iterator[tuple[Patches, Lengths | None]]:
        """The patches of ``batch_size`` images at a time, on the device of the weights; sequences' sites."""
        if self.patching is None or self.image_shape is None:
            raise UserError("this network has no patching: ttlightning.load gives one that scores images")
        weight = next(self.format.parameters())
        lengths = None
        if is_sequence(self.image_shape) and are_sequences(images):
            windows = windows_of(self.patching)
            read = as_sequences(images, windows, self.image_shape[2])
            pixels, each = read.images, windows.sites(read.lengths)
            lengths = None if bool((each == self.format.sites).all()) else each
        else:
            pixels = as_images(images, self.image_shape)
        check_pixels(pixels, self.unit_pixels)
        for start in range(0, max(1, len(pixels)), batch_size):
            here = slice(start, start + batch_size)
            patches = scaled(self.patching(pixels[here]), weight.dtype).to(weight.device)
            yield patches, None if lengths is None else lengths[here].to(weight.device)
