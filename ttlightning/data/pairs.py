"""An image and its label in what loaders and data sets give: a pair, or a mapping such as {"image": ..., "label": ...}.

Columns are found by their names: ``IMAGE_KEYS`` and ``LABEL_KEYS`` list those in use.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ttlightning.data.arrays import as_tensor
from ttlightning.errors import UserError

IMAGE_KEYS: Final = ("image", "images", "img", "pixel_values", "patches", "x", "inputs")
LABEL_KEYS: Final = ("label", "labels", "fine_label", "target", "targets", "y")


class Pair(NamedTuple):
    """An image and its label, or many; the label is None where there is none."""

    image: Any
    label: Any


def pair_of(sample: Any) -> Pair:
    """The image and the label in a sample or a batch; what is no pair and no mapping is an image without a label.

    Raises:
        UserError: another number of parts than two, or a mapping without exactly one known name of an image.
    """
    if isinstance(sample, Mapping):
        label = column_of(sample.keys(), LABEL_KEYS, required=False)
        return Pair(sample[column_of(sample.keys(), IMAGE_KEYS)], None if label is None else sample[label])
    if isinstance(sample, Sequence) and not isinstance(sample, str):
        if len(sample) not in (1, 2):
            raise UserError(f"a batch or sample has {len(sample)} parts, it must have two: images and labels")
        return Pair(sample[0], sample[1] if len(sample) == 2 else None)
    return Pair(sample, None)


def column_of(names: Collection[str], known: Sequence[str], required: bool = True) -> str | None:
    """The one name that is known; None if there is none and none is required."""
    there = [name for name in known if name in names]
    if len(there) > 1 or (required and not there):
        raise UserError(
            f"a batch or data set has the keys {', '.join(map(str, names))}: exactly one of them must be one of "
            f"{', '.join(known)}"
        )
    return there[0] if there else None


def as_labels(values: Any, samples: int, classes: int | None = None) -> Int[Tensor, " samples"]:
    """Numbers of classes, as int64.

    Raises:
        UserError: no whole numbers, another number of them than samples, or a number outside 0 to ``classes`` - 1.
    """
    labels = as_tensor(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, they must be whole numbers, one for each image"
        )
    if len(labels) != samples:
        raise UserError(f"there are {samples} images and {len(labels)} labels")
    labels = labels.to(torch.int64)
    if samples and (int(labels.min()) < 0 or (classes is not None and int(labels.max()) >= classes)):
        most = "or more" if classes is None else f"to {classes - 1}, there are {classes} classes"
        raise UserError(f"labels lie from {int(labels.min())} to {int(labels.max())}, they must be 0 {most}")
    return labels
