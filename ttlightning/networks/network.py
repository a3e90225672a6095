r"""The network from pixels to scores: patches, feature map, weight tensor.

score_y(x_1, ..., x_d) = < W_y, f(x_1 - m) o f(x_2 - m) o ... o f(x_d - m) >           [K18, Sec. 2]
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.formats.kernels.scales import below_the_largest
from ttlightning.networks.features import PatchFeatureMap

# Factories that a configuration names; the network supplies the arguments in brackets.
FeatureMapFactory = Callable[[int], PatchFeatureMap]  # (patch_dim)
ScoreTensorFactory = Callable[[int, int, int], ScoreTensor]  # (sites, mode_size, classes)


class Network(nn.Module):
    """A feature map, the same for all patches, and a weight tensor in a tensor format.

    Args:
        features: f, patches to features.
        format: W, the score tensor.
        pixel_mean: m, subtracted from pixels in [0, 1]; a dropped patch has this value.
        patching: how ``score_images`` cuts an image into patches.
        image_shape: channels, height and width of the images of ``score_images``.
        class_names: names of the classes in the order of their scores.

    Shapes:
        patches ``(batch, sites, patch_dim)``, floats in [0, 1] -> scores ``(batch, classes)``.
    """

    def __init__(
        self,
        features: PatchFeatureMap,
        format: ScoreTensor,
        pixel_mean: float = 0.0,
        patching: Patching | None = None,
        image_shape: tuple[int, int, int] | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.features, self.format, self.pixel_mean = features, format, pixel_mean
        self.patching, self.image_shape, self.class_names = patching, image_shape, tuple(class_names)

    def forward(
        self,
        patches: Float[Tensor, "batch sites patch_dim"],
        keep: Bool[Tensor, "batch sites"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Scores of all classes; a patch where ``keep`` is False counts as ``pixel_mean`` everywhere.

        Raises:
            UserError: patches of integers, or of another shape than the format's.
        """
        return self.format(self.embed(patches, keep))

    def embed(
        self, patches: Float[Tensor, "batch sites patch_dim"], keep: Bool[Tensor, "batch sites"] | None = None
    ) -> Float[Tensor, "batch sites modes"]:
        """Features of all patches."""
        if not patches.is_floating_point():
            raise UserError(
                f"patches are {patches.dtype}, they must be floats in [0, 1]: use ttlightning.data.pixels.scaled"
            )
        pixels = patches.to(next(self.format.parameters()).dtype) - self.pixel_mean
        if keep is not None:
            pixels = pixels * keep.unsqueeze(-1)
        return self.features(pixels)

    def below_the_largest(self, patches: Float[Tensor, "batch sites patch_dim"]) -> Float[Tensor, "batch classes"]:
        """Each score minus the largest of its sample, also where the scores themselves are out of range.

        Softmax and cross-entropy depend on these differences only.
        """
        features = self.embed(patches)
        self.format._check(features)
        return below_the_largest(*self.format.scaled_scores(features))

    @torch.no_grad()
    def score_images(
        self, images: Real[Tensor, "samples channels height width"], batch_size: int = 2000
    ) -> Float[Tensor, "samples classes"]:
        """Scores of images: uint8 pixels from 0 to 255, or floats in [0, 1]; without gradients.

        Args:
            batch_size: images in one pass. The bits of a score can depend on it; 2000 is what ``test`` and
                ``predict`` use by default.

        Raises:
            UserError: a network that does not know how images are cut; images of another shape.
        """
        if self.patching is None or self.image_shape is None:
            raise UserError("this network has no patching: ttlightning.load gives one that scores images")
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise UserError(
                f"images have shape {tuple(images.shape)}, it must be (samples, channels, height, width) = "
                f"(samples, {', '.join(map(str, self.image_shape))})"
            )
        weight = next(self.format.parameters())
        parts = [self(scaled(self.patching(part), weight.dtype).to(weight.device)) for part in images.split(batch_size)]
        return torch.cat(parts)
