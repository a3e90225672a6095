"""A data set, uint8 images or points in the plane, identified by the SHA-256 of its contents."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int, Real
from torch import Tensor
from torchvision.datasets import VisionDataset


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set: uint8 pixels, or float32 coordinates in a column."""

    images: Real[Tensor, "samples channels height width"]
    labels: Int[Tensor, " samples"]
    lengths: Int[Tensor, " samples"] | None = None
    """Values of each sequence, which is an image of one row; None: all images are full."""

    def chosen(self, indices: Int[Tensor, " chosen"]) -> "Split":
        """The samples with these indices."""
        lengths = None if self.lengths is None else self.lengths[indices]
        return Split(self.images[indices], self.labels[indices], lengths)


@dataclass(frozen=True)
class ImageDataset:
    """A data set with its fixed test set; ``name`` is the fallback's if the fallback was read."""

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    """A fixed validation set, if the data set has one."""
    stored: str | None = None
    """Hash of a data set whose images are memory-mapped from ``data/cache.py``; None: they are in memory."""

    def sha256(self) -> str:
        """Hash of shapes, pixels and labels of all splits, which identifies the data."""
        if self.stored is not None:
            return self.stored
        digest = hashlib.sha256()
        for split in filter(None, (self.train, self.test, self.validation)):
            for tensor in filter(lambda part: part is not None, (split.images, split.labels, split.lengths)):
                digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Spec:
    """A data set before it is read.

    Args:
        shape: channels, height and width of an image.
        classes: number of classes.
        kind: torchvision's class, which reads and downloads the data set.
        folder: torchvision's folder for it under the data root.
        read: reader of (name, root) for a data set that torchvision does not have.
        names: names of the classes; empty if they have only numbers.
        points: whether the samples are points in the plane.
        floats: whether the samples are floats; else they are bytes.
        unit_pixels: whether the samples are bytes, or floats in [0, 1].
    """

    shape: tuple[int, int, int]
    classes: int
    kind: type[VisionDataset] | None = None
    folder: str = ""
    read: Callable[[str, Path], ImageDataset] | None = None
    names: tuple[str, ...] = ()
    points: bool = False
    floats: bool = False
    unit_pixels: bool = True
