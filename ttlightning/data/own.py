"""Data sets of the user's own, given in Python, as ``ImageDataset``: identified by content, like those with a name.

A source is a pair of arrays (images, labels), a data set of torch or torchvision, or one of Hugging Face's
``datasets``. Every sample is read once, so a random transform of the source draws once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from ttlightning.data.arrays import as_tensor, check_pixels
from ttlightning.data.pairs import IMAGE_KEYS, LABEL_KEYS, as_labels, column_of, pair_of
from ttlightning.data.splits import ImageDataset, Spec, Split
from ttlightning.errors import UserError

MODES: Final = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
"""Modes of Pillow that are read, and the mode that they become."""

BYTE_TOLERANCE: Final = 1e-3
"""Floats within this distance of k / 255, in units of 1 / 255, are the byte k."""

PARTS: Final = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
"""Part of a data set, and its names in a mapping of Hugging Face's."""


class Own(NamedTuple):
    """A data set that was given in Python, and its description."""

    images: ImageDataset
    spec: Spec
    cut: Mapping[str, int] | None = None
    """Of sequences: how many of each part were longer than what is kept of them."""


def read_own(
    name: str, train: Any, validation: Any = None, test: Any = None, class_names: Sequence[str] | None = None
) -> Own:
    """Read the sources of a data set.

    Args:
        train: the source of the training samples, or a mapping of parts to sources (``DatasetDict``).
        class_names: names of the classes; default those that the source of the training samples has.

    Raises:
        UserError: a source, an image or a label that cannot be read, or parts that do not fit together.
    """
    sources = {"train": train, "validation": validation, "test": test}
    if isinstance(train, Mapping):
        given = {part: next((train[n] for n in names if n in train), None) for part, names in PARTS.items()}
        if given["train"] is None:
            raise UserError(f"the data set has the parts {', '.join(map(str, train))}, and none is called train")
        sources = given | {part: source for part, source in sources.items() if part != "train" and source is not None}
    read = {part: _read(part, source) for part, source in sources.items() if source is not None}
    names = tuple(class_names or _names_of(sources["train"]))
    first = read["train"]
    classes = len(names) or int(first.labels.max()) + 1
    for part, split in read.items():
        shape, kind = tuple(split.images.shape[1:]), split.images.dtype
        if (shape, kind) != (tuple(first.images.shape[1:]), first.images.dtype):
            raise UserError(
                f"{part} images are {kind} of shape {shape}, those of train {first.images.dtype} of "
                f"{tuple(first.images.shape[1:])}"
            )
        as_labels(split.labels, len(split.images), classes)
    absent = Split(first.images[:0], first.labels[:0])
    spec = Spec(
        tuple(first.images.shape[1:]), classes, names=names, floats=first.images.is_floating_point(),
        unit_pixels=all(_is_unit(split.images) for split in read.values()),
    )  # fmt: skip
    return Own(ImageDataset(name, first, read.get("test", absent), read.get("validation")), spec)


def _read(part: str, source: Any) -> Split:
    """All samples of a source; ``UserError`` names the part."""
    try:
        images, labels = _columns(source)
        pixels = _bytes_of(_with_channels_first(images))
        if not len(pixels):
            raise UserError("there are no images")
        return Split(pixels.contiguous(), as_labels(labels, len(pixels)))
    except UserError as mistake:
        raise UserError(f"{part} data, a {type(source).__name__}: {mistake}") from mistake


def _columns(source: Any) -> tuple[Tensor, Any]:
    """The images and the labels of a source."""
    if isinstance(source, tuple) and len(source) == 2:
        return as_tensor(source[0]), source[1]
    if hasattr(source, "column_names") and hasattr(source, "features"):
        image, label = (column_of(source.column_names, known) for known in (IMAGE_KEYS, LABEL_KEYS))
        return _stacked(source[image]), list(source[label])
    if hasattr(source, "dataset") and hasattr(source, "batch_sampler"):
        raise UserError("a loader gives batches, perhaps in random order: give its data set")
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UserError("it must be a pair (images, labels) of arrays, or a data set with a length and indices")
    pairs = [pair_of(source[index]) for index in range(len(source))]
    return _stacked([pair.image for pair in pairs]), [_number(pair.label) for pair in pairs]


def _number(label: Any) -> int:
    """A label as a number; torch's and numpy's numbers have ``item``."""
    try:
        value = label.item() if hasattr(label, "item") else label
    except (RuntimeError, ValueError):  # of several numbers
        value = label
    if type(value) is not int:
        raise UserError(f"a label is {value!r:.40}, it must be a whole number")
    return value


def _stacked(images: Any) -> Tensor:
    """One tensor of single images, which must have one size."""
    read = [_single(image) for image in images]
    for index, image in enumerate(read):
        if image.shape != read[0].shape:
            raise UserError(
                f"image {index} has shape {tuple(image.shape)}, the first has {tuple(read[0].shape)}: resize them"
            )
    return torch.stack(read) if read else torch.empty(0, 1, 1)


def _single(image: Any) -> Tensor:
    """A picture of Pillow with its channels first, another image as it is."""
    if not isinstance(image, Image):
        return as_tensor(image)
    if image.mode not in MODES or image.has_transparency_data:
        raise UserError(f"a picture has mode {image.mode}, or is transparent: convert it to L or RGB")
    pixels = as_tensor(image.convert(MODES[image.mode]))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.movedim(-1, 0)


def _with_channels_first(images: Tensor) -> Tensor:
    """(N, d) points, (N, H, W), (N, C, H, W) and (N, H, W, C) as (N, C, H, W); C = 1 or 3 may come last."""
    if images.ndim == 2:
        return images.unsqueeze(1).unsqueeze(-1)
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim != 4:
        raise UserError(f"images have shape {tuple(images.shape)}, it must be (samples, channels, height, width)")
    first, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
    if first and last:
        raise UserError(f"images have shape {tuple(images.shape)}, whose channels can be the second and the last axis")
    return images.movedim(-1, 1) if last else images


def _bytes_of(images: Tensor) -> Tensor:
    """Floats that are k / 255 as bytes; other floats as float32.

    Raises:
        UserError: whole numbers that are no bytes, floats that look like bytes, or values that are not finite.
    """
    check_pixels(images, unit_pixels=not images.is_floating_point())
    if not images.is_floating_point():
        return images
    if not _is_unit(images):
        if images.numel() and images.min() >= 0 and bool((images == images.round()).all()):
            raise UserError(
                f"images are whole numbers from 0 to {float(images.max()):.4g} as floats: divide by the largest "
                "value that a pixel can have, or give uint8"
            )
        return images.float()
    scaled = images.double() * 255
    return scaled.round().to(torch.uint8) if (scaled - scaled.round()).abs().max() < BYTE_TOLERANCE else images.float()


def _is_unit(images: Tensor) -> bool:
    """Whether pixels are bytes or in [0, 1]."""
    return not images.is_floating_point() or not images.numel() or bool(images.min() >= 0 and images.max() <= 1)


def _names_of(source: Any) -> tuple[str, ...]:
    """Names of the classes that a source has; empty if it has none. A subset has those of its data set."""
    features = getattr(source, "features", None)
    if isinstance(features, Mapping):
        label = column_of(features.keys(), LABEL_KEYS)
        return tuple(getattr(features[label], "names", ()))
    for each in _chain(source):
        classes = getattr(each, "classes", None)
        if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
            return tuple(classes)
    return ()


def _chain(source: Any) -> Iterator[Any]:
    """A data set, the one that it is a subset of, and so on."""
    while source is not None:
        yield source
        source = getattr(source, "dataset", None)
