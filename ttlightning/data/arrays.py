r"""Images as a user has them: numpy or torch, bytes or floats, one or many, channels before or after the pixels.

(H, W)   (C, H, W)   (H, W, C)   (N, H, W)   (N, C, H, W)   (N, H, W, C)   ->   (N, C, H, W)

The size (C, H, W) of the images decides which of these an array is; (H, W) and (N, H, W) have one channel.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from ttlightning.errors import UserError

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


def as_tensor(values: Any) -> Tensor:
    """The tensor of a tensor, an array, a picture of Pillow, or a list of these with one shape.

    Raises:
        UserError: other values.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        if isinstance(values, list | tuple) and any(hasattr(value, "__array__") for value in values):
            return torch.stack([as_tensor(value) for value in values])
        array = np.asarray(values)
        is_shared = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
        return torch.from_numpy(array if is_shared else array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"a {type(values).__name__} is no array of numbers with one shape: {reason}") from fault


def as_images(values: Any, shape: Shape) -> Real[Tensor, "samples channels height width"]:
    """Images of size ``shape``; one image is one sample.

    Points, which are images of one column, may also come as ``(samples, coordinates)``.

    Raises:
        UserError: an array of another shape, or one whose channels can be its first and its last axis.
    """
    images, (channels, height, width) = as_tensor(values), shape
    own, first, last = tuple(images.shape), shape, (height, width, channels)
    if channels == 1 and own[-2:] == (height, width) and images.ndim in (2, 3):
        return images.reshape(-1, *shape)
    if channels == width == 1 and images.ndim == 2 and own[1] == height:
        return images.reshape(-1, *shape)
    if images.ndim not in (3, 4) or own[-3:] not in (first, last):
        raise UserError(
            f"images have shape {own}, it must be {(channels, height, width)} (channels, height, width) or "
            f"{last} (height, width, channels), or (samples, ...) of one of them"
            + (f", or without channels {(height, width)}" if channels == 1 else "")
        )
    if first == last and channels > 1:
        raise UserError(f"images have shape {own}, whose channels can be the first and the last axis")
    return (images if own[-3:] == first else images.movedim(-1, -3)).reshape(-1, *shape)


def check_pixels(images: Tensor, unit_pixels: bool = True) -> None:
    """Check the type and the range of the pixels.

    Args:
        unit_pixels: whether pixels are bytes, or floats in [0, 1]; else they are floats of any range.

    Raises:
        UserError: another type, floats outside [0, 1], or a value that is not finite.
    """
    if not images.is_floating_point():
        if images.dtype != torch.uint8:
            raise UserError(f"images are {images.dtype}, they must be uint8, or floats in [0, 1]")
        if not unit_pixels:
            raise UserError("images are torch.uint8, and the network was trained on floats that are not in [0, 1]")
        return
    if not images.numel():
        return
    low, high = (float(value) for value in images.aminmax())
    if not images.isfinite().all():
        raise UserError("images have values that are not finite")
    if unit_pixels and not 0 <= low <= high <= 1:
        raise UserError(
            f"images have values from {low:.4g} to {high:.4g}, floats must be in [0, 1]: divide by 255, or give uint8"
        )
