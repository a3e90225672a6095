"""A network for images of one size, which it cuts into patches itself: in batches of any loader, and in ``predict``."""

from collections.abc import Sequence
from typing import Any, Self

from ttlightning.data.arrays import Shape
from ttlightning.data.patches import Order, Patching
from ttlightning.formats import ScoreFunction


class ForImages:
    """The part of ``Classifier`` that takes images."""

    format: ScoreFunction

    @classmethod
    def for_images(
        cls,
        image_shape: Shape,
        classes: int,
        patch_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int = 0,
        order: Order | tuple[Order, ...] = "raster",
        repeat: int = 1,
        class_names: Sequence[str] = (),
        **options: Any,
    ) -> Self:
        """A network for batches of images from any loader.

            model = Classifier.for_images((1, 28, 28), classes=10, patch_size=7)

        Args:
            image_shape: channels, height and width of an image.
            patch_size, stride, padding, order, repeat: how an image becomes a chain, see ``Patching``.
            class_names: names of the classes.
            options: the other arguments of ``Classifier``.
        """
        patching = Patching(patch_size, stride, padding, order, repeat)
        model = cls(*patching.shape(*image_shape), classes, **options)
        model.take_images(patching, image_shape, class_names)
        return model

    def take_images(
        self,
        patching: Patching | None,
        image_shape: Shape | None,
        class_names: Sequence[str] = (),
        unit_pixels: bool = True,
    ) -> None:
        """Take images of this shape: in batches and in ``predict``.

        Raises:
            UserError: the format needs the patches that tile a square image, and these are others.
        """
        if self.format.needs_whole_images and patching is not None and image_shape is not None:
            patching.check_tiling(image_shape, self.format.name)
        self.patching, self.image_shape = patching, image_shape
        self.class_names, self.unit_pixels = tuple(class_names), unit_pixels

    def take_images_of(self, data: Any) -> None:
        """Take the images of a ``PatchDataModule``. Another loader gives one batch a call."""
        if isinstance(patching := getattr(data, "patching", None), Patching):
            self.take_images(patching, data.spec.shape, data.spec.names, data.spec.unit_pixels)
        else:
            self.steps_per_execution = 1
            self.automatic_optimization = True
