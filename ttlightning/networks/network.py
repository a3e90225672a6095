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

# Factories in a configuration, with their arguments.
FeatureMapFactory = Callable[[int], PatchFeatureMap]  # (patch_dim)
ScoreTensorFactory = Callable[[int, int, int], ScoreTensor]  # (sites, mode_size, classes)

Patches = Float[Tensor, "batch sites patch_dim"]
Keep = Bool[Tensor, "batch sites"]
Scores = Float[Tensor, "batch classes"]


class Network(nn.Module):
    """One feature map for all patches, then a weight tensor in a tensor format.

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

    @torch.no_grad()
    def score_images(self, images: Real[Tensor, "batch channels height width"], batch_size: int = 2000) -> Scores:
        """Scores of images: uint8 pixels from 0 to 255, or floats in [0, 1]; without gradients.

        Args:
            batch_size: images in one pass. The last bits of a score can depend on it; 2000 is the default of ``test``
                and ``predict``.

        Raises:
            UserError: the network has no patching, or the images have another shape.
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
