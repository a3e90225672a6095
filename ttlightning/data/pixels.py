"""Pixels as input of the network."""

import torch
from jaxtyping import Float, Real
from torch import Tensor


def scaled(pixels: Real[Tensor, "..."], dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
    """uint8 pixels times 1/255, in [0, 1]; floats, such as coordinates of points, keep their values."""
    return pixels.to(dtype) if pixels.is_floating_point() else pixels.to(dtype).mul_(1 / 255)
