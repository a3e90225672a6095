"""Samples that are read from memory-mapped images when a batch asks for them."""

from collections.abc import Callable, Iterator
from typing import Final

from jaxtyping import Int, Real, UInt8
from torch import Tensor

BLOCK: Final = 1 << 24
"""Bytes of images that are read at a time."""


class Rows:
    """Samples of memory-mapped images, read when they are indexed, and cut into patches if a ``patching`` is given.

    Indices and slices give the same values as the tensor of all samples would.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "samples channels height width"],
        chosen: Int[Tensor, " chosen"] | None = None,
        patching: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images, self.chosen, self.patching = images, chosen, patching

    def __len__(self) -> int:
        return len(self.images if self.chosen is None else self.chosen)

    def __getitem__(self, which: Int[Tensor, " batch"] | slice) -> Real[Tensor, "batch ..."]:
        rows = which if self.chosen is None else self.chosen[which]
        images = self.images[rows]
        return images.clone() if self.patching is None else self.patching(images)

    def with_patches(self, patching: Callable[[Tensor], Tensor]) -> "Rows":
        return Rows(self.images, self.chosen, patching)


def in_blocks(images: Tensor) -> Iterator[Tensor]:
    """Images that are in memory, a block at a time."""
    yield from images.split(max(1, BLOCK // max(1, images[0].numel())))
