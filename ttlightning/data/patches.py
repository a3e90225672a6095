r"""Images to chains of patches: pixels of each site, and order of the sites.

A patch of height p and width q slides over the padded image in steps of s: site k is the k-th window of the order,
vectorised channel by channel, row by row. With p = q = s = 7 an MNIST digit becomes 16 sites of 49 pixels
[K18, Fig. 2].

A chain that reads its w patches k times, x_1, ..., x_w, x_1, ..., x_w, ..., has k * w sites. Its scores are polynomials
of degree k in the features of each patch. With k = 2, a chain of two patches has interior cores. Several orders are
read one after the other: (raster, columns) reads the image row by row, then column by column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Int, Real
from torch import Tensor
from torch.nn import functional as F

from ttlightning.errors import UserError

Order = Literal["raster", "columns", "snake", "hilbert"]


@dataclass(frozen=True)
class Patching:
    """Windows of an image and their order in the chain.

    Args:
        patch_size: side of the square window, or its height and width, in pixels.
        stride: step of the window; ``None`` means the patch size, so that patches tile the image.
        padding: zeros around the image, in pixels on every side.
        order: ``raster`` (row by row), ``columns`` (column by column), ``snake`` (every second row backwards, so that
            neighbours in the chain are neighbours in the image), ``hilbert`` (the space-filling curve; square grids
            with a side of 2^m only), or several of them, which are read one after the other.
        repeat: how often the chain reads the patches in this order, or in these orders.
    """

    patch_size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: int = 0
    order: Order | Sequence[Order] = "raster"
    repeat: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(self.order))  # of a configuration, whose lists have no hash

    def sequence(self, rows: int, columns: int) -> Int[Tensor, " sites"]:
        """Raster index of the window of each site, for all orders and repetitions."""
        orders = (self.order,) if isinstance(self.order, str) else self.order
        if not orders:
            raise UserError("order is empty, it must name at least one order")
        return torch.cat([visiting_order(order, rows, columns) for order in orders]).repeat(self.repeat)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of windows down and across; ``UserError`` if they do not tile the padded image."""
        sizes, strides = _pair(self.patch_size), _pair(self.patch_size if self.stride is None else self.stride)
        if min(*sizes, *strides) < 1 or self.padding < 0:
            raise UserError(
                f"patch_size {self.patch_size}, stride {self.stride}, padding {self.padding}: "
                "the first two must be at least 1, the padding at least 0"
            )
        counts = []
        for side, length, size, step in zip(("height", "width"), (height, width), sizes, strides, strict=True):
            free = length + 2 * self.padding - size
            if free < 0 or free % step:
                raise UserError(
                    f"patch_size {size} with stride {step} and padding {self.padding} does not tile an image of {side} "
                    f"{length}: {length} + 2*{self.padding} - {size} = {free} must be a multiple of {step}, 0 or more; "
                    f"{_ways_out(length, self.padding, size, step)}"
                )
            counts.append(free // step + 1)
        return counts[0], counts[1]

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int]:
        """(sites, patch_dim) of an image; ``UserError`` if the grid or the order does not fit the image."""
        if self.repeat < 1:
            raise UserError(f"repeat is {self.repeat}, it must be at least 1: how often the chain reads the patches")
        rows, columns = self.grid(height, width)
        return len(self.sequence(rows, columns)), self.patch_dim(channels)

    def patch_dim(self, channels: int) -> int:
        """Length of a vectorised patch."""
        height, width = _pair(self.patch_size)
        return channels * height * width

    def check_tiling(self, shape: tuple[int, int, int], reader: str) -> None:
        """``UserError`` unless the sites are square patches that tile a square image once, row by row."""
        (high, wide), (_, height, width) = _pair(self.patch_size), shape
        tiles = self.stride is None or _pair(self.stride) == (high, wide)
        if not tiles or high != wide or height != width or self.padding or self.order != "raster" or self.repeat != 1:
            raise UserError(
                f"{reader} needs patches that tile a square image, row by row, got an image of {height} x {width}, "
                f"patch_size {self.patch_size}, stride {self.stride}, padding {self.padding}, order {self.order}, "
                f"repeat {self.repeat}"
            )

    def __call__(
        self, images: Real[Tensor, "samples channels height width"]
    ) -> Real[Tensor, "samples sites patch_dim"]:
        """All patches of all images, one tensor of the images' type."""
        rows, columns = self.grid(*images.shape[-2:])
        (height, width), step = _pair(self.patch_size), _pair(self.patch_size if self.stride is None else self.stride)
        padded = F.pad(images, (self.padding,) * 4) if self.padding else images
        windows = padded.unfold(2, height, step[0]).unfold(3, width, step[1])
        by_site = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return by_site[:, self.sequence(rows, columns)]


def visiting_order(order: Order, rows: int, columns: int) -> Int[Tensor, " sites"]:
    """Raster index of the window of each site."""
    if order not in get_args(Order):
        raise UserError(f"order is {order!r}, it must be one of {get_args(Order)}")
    if order == "hilbert":
        if rows != columns or rows & (rows - 1):
            raise UserError(
                f"order hilbert needs a square grid of patches whose side is a power of two, "
                f"got {rows} x {columns}; use snake, which fits every grid"
            )
        return _hilbert(rows) @ torch.tensor([columns, 1])
    raster = torch.arange(rows * columns).reshape(rows, columns)
    if order == "columns":
        return raster.T.flatten()
    if order == "snake":
        raster[1::2] = raster[1::2].flip(1)
    return raster.flatten()


def _hilbert(side: int) -> Int[Tensor, "cells 2"]:
    """Rows and columns of the Hilbert curve on a side x side grid, from (0, 0) to (0, side - 1).

    The curve of twice the side is four copies: transposed, unchanged, unchanged, anti-transposed.
    """
    if side == 1:
        return torch.zeros(1, 2, dtype=torch.int64)
    half = side // 2
    curve = _hilbert(half)
    transposed, down, end = curve.flip(1), torch.tensor([half, 0]), torch.tensor([half - 1, side - 1])
    return torch.cat([transposed, curve + down, curve + half, end - transposed])


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _ways_out(length: int, padding: int, size: int, step: int) -> str:
    """Patch sizes that tile with this stride and padding, the nearest to ``size``."""
    padded = length + 2 * padding
    fitting = [s for s in range(1, padded + 1) if (padded - s) % (s if size == step else step) == 0]
    nearest = sorted(sorted(fitting, key=lambda s: abs(s - size))[:4])
    return "patch sizes that fit: " + ", ".join(map(str, nearest))
