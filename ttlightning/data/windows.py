r"""Windows of a sequence as the sites of its chain, and sequences as a user has them.

A sequence is an image of one row, filled with zeros to the longest, and a length. Site k of its chain is the window of
w values that begins at value (k - 1) s; the last window may reach beyond the end, into zeros:

    sites = ceil((values - w) / s) + 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Real
from torch import Tensor

from ttlightning.data.arrays import as_tensor
from ttlightning.data.patches import Patching
from ttlightning.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Windows of ``size`` values, a new one every ``stride`` values."""

    size: int
    stride: int

    @property
    def fewest(self) -> int:
        """Values of the shortest sequence with two sites."""
        return self.size + 1

    def sites(self, values: Int[Tensor, " samples"]) -> Int[Tensor, " samples"]:
        """Windows of sequences with so many values."""
        return (values - self.size + self.stride - 1) // self.stride + 1

    def filled(self, values: int) -> int:
        """Values up to the end of the last window."""
        return self.size + math.ceil((values - self.size) / self.stride) * self.stride


def is_sequence(shape: tuple[int, int, int]) -> bool:
    """Whether images of this shape (channels, height, width) are sequences: one channel and one row."""
    return shape[:2] == (1, 1)


def windows_of(patching: Patching) -> Windows:
    """The windows of images of one row.

    Raises:
        UserError: a window of several rows, one that leaves values out, padding, an order or a repetition.
    """
    size, step = patching.patch_size, patching.patch_size if patching.stride is None else patching.stride
    (high, wide), (_, across) = ((v, v) if isinstance(v, int) else v for v in (size, step))
    if high != 1:
        raise UserError(
            f"data.patch_size is {size}, but a sequence has one row: a window of {wide} values is [1, {wide}]"
        )
    if wide < 1 or not 1 <= across <= wide:
        raise UserError(f"data.stride is {step}, it must be at least 1 and at most the window of {wide} values")
    for name, value, usual in (("padding", patching.padding, 0), ("repeat", patching.repeat, 1)):
        if value != usual:
            raise UserError(f"data.{name} is {value}, which is for images: leave it out for sequences")
    if patching.order != "raster":
        raise UserError(f"data.order is {patching.order}, but sequences are read in their own order: leave it out")
    return Windows(wide, across)


def windows_of_config(data: Mapping[str, Any]) -> Windows:
    """The windows of a configuration's section ``data``; errors as of ``windows_of``."""
    return windows_of(Patching(*(data[name] for name in ("patch_size", "stride", "padding", "order", "repeat"))))


class Rows(NamedTuple):
    """Sequences as images of one row, uint8 or float32, and their numbers of values."""

    images: Real[Tensor, "samples 1 1 width"]
    lengths: Int[Tensor, " samples"]


def as_rows(values: Sequence[np.ndarray], width: int) -> Rows:
    """Images of ``width`` values, zeros behind the end of each sequence; bytes if all of them are bytes."""
    are_bytes = all(row.dtype == np.uint8 for row in values)
    images = torch.zeros(len(values), 1, 1, width, dtype=torch.uint8 if are_bytes else torch.float32)
    for image, row in zip(images, values, strict=True):
        image[0, 0, : len(row)] = torch.from_numpy(row.copy())
    return Rows(images, torch.tensor([len(row) for row in values], dtype=torch.int64))


def are_sequences(values: object) -> bool:
    """Whether values are one sequence, or several in a list or in the rows of an array; else they are images."""
    first = values[0] if isinstance(values, list | tuple) and values else None
    dims = getattr(values, "ndim", 0) if first is None else getattr(first, "ndim", np.ndim(first))
    return int(dims) < (3 if first is None else 2)


def as_sequences(values: Any, windows: Windows, width: int) -> Rows:
    """One sequence or several, as the network's images. Text may be ``str`` or ``bytes``.

    Raises:
        UserError: a sequence of several dimensions, of another type, too short, or longer than ``width``.
    """
    if isinstance(values, list | tuple):
        is_one = len(values) > 0 and np.isscalar(values[0]) and not isinstance(values[0], str | bytes)
        given = [values] if is_one else list(values)
    else:
        given = list(values) if getattr(values, "ndim", 1) == 2 else [values]
    rows = []
    for index, each in enumerate(given):
        text = each.encode() if isinstance(each, str) else each
        is_text = isinstance(text, bytes | bytearray)
        row = np.frombuffer(text, np.uint8) if is_text else as_tensor(each).cpu().numpy()
        if row.ndim != 1 or row.dtype.kind not in "iuf":
            raise UserError(
                f"sequence {index} is {row.dtype} of shape {row.shape}, it must be a row of numbers, or text"
            )
        if not windows.fewest <= len(row) <= width:
            raise UserError(
                f"sequence {index} has {len(row)} values, the network takes {windows.fewest} to {width} of them"
            )
        rows.append(row if row.dtype == np.uint8 else row.astype(np.float32))
    return as_rows(rows, width)
