r"""Data sets on the disk: read once, memory-mapped by every process from then on, so that they need not fit in memory.

    $TTLIGHTNING_CACHE/<SHA-256 of the data set>/   train-images.npy  train-labels.npy  test-images.npy  ...  entry.json
    $TTLIGHTNING_CACHE/sources/<key>.json           the SHA-256 of the data set that these files hold

    key = SHA-256 of the reader's version and of (path, size, time of change, time of status change) of every file.

A start looks up its files by this key, which reads none of them. The system sets the time of the status change, so a
program that gives a changed file its old time does not hide the change. ``anew`` reads everything, as ``rerun`` does.
An entry is complete or absent: it is written under another name, and renamed. One whose files have another size than
its record is made again. One whose files were written since, by their times, is hashed again before it is used.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ttlightning.data.splits import ImageDataset, Split
from ttlightning.errors import UserError
from ttlightning.system.lock import Lock
from ttlightning.system.paths import expanded

VARIABLE: Final = "TTLIGHTNING_CACHE"
PARTS: Final = ("train", "test")
ENTRY: Final = "entry.json"
READER: Final = 1
"""Version of what is read from a file; a new one makes new keys."""
SETTLED: Final = 2.0
"""Seconds since the last change of a source before it is read: the coarsest times of file systems. A change during or
after the reading so has another time."""


class Part(NamedTuple):
    """One part of a data set before its images are read."""

    labels: Int[Tensor, " samples"]
    blocks: Iterable[UInt8[Tensor, "rows channels height width"]]
    """the images in order, some at a time; read when they are iterated"""


class Source(NamedTuple):
    """The files of a data set, and how they are read."""

    name: str
    shape: tuple[int, int, int]
    files: Callable[[], Sequence[Path]]
    part: Callable[[str], Part]
    """``train`` or ``test``"""


def cache_folder() -> Path | None:
    """``$TTLIGHTNING_CACHE``; None where it is not set, and data are read into memory."""
    folder = os.environ.get(VARIABLE)
    return expanded(folder).absolute() if folder else None


def check_memory(size: int, what: object) -> None:
    """Raise ``UserError`` where ``size`` bytes of images and their patches are more than the machine's memory."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * size > memory:
        raise UserError(
            f"{what}: {size / 2**30:.1f} GiB of images and as much of patches do not fit into the {memory / 2**30:.1f} "
            f"GiB of memory; set {VARIABLE} to a folder of a disk, and they are read from there"
        )


def cached(source: Source, folder: Path, anew: bool = False, say: Callable[[], None] | None = None) -> ImageDataset:
    """The data set of these files, memory-mapped; made first where the cache lacks it.

    Args:
        say: called before the files are read.
        anew: whether the files are read again and the entry is checked by its hash, whatever the times say.

    Raises:
        UserError: files that are refused or change meanwhile, or a cache that cannot be written.
    """
    key = _key(source)
    if not anew and (found := _find(source, folder, key)) is not None:
        return found
    if say is not None:
        say()
    try:
        (folder / "sources").mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / f"{key}.lock")
        lock.acquire(wait=True)
        try:
            found = None if anew else _find(source, folder, key)  # by another process meanwhile
            return found or _make(source, folder, key)
        finally:
            lock.release()
    except OSError as fault:
        raise UserError(f"{VARIABLE} is {folder}, which cannot be written: {fault.strerror}") from fault


def _find(source: Source, folder: Path, key: str) -> ImageDataset | None:
    record = _json(_index(folder, key))
    return None if record is None else _opened(source.name, folder / str(record.get("sha256")))


def _opened(name: str, entry: Path, checked: bool = False) -> ImageDataset | None:
    """The data set in an entry; None where the entry is not complete or not what its name says."""
    record = _json(entry / ENTRY)
    if record is None:
        return None
    found = {file: _stamp(entry / file) for file in record}
    if any(stamp is None or stamp[0] != record[file][0] for file, stamp in found.items()):
        warnings.warn(f"{entry} is not complete: it is made again", stacklevel=2)
        return None
    splits = [Split(*(_mapped(entry / f"{part}-{kind}.npy") for kind in ("images", "labels"))) for part in PARTS]
    if checked or found != record:
        if ImageDataset(name, *splits).sha256() != entry.name:
            warnings.warn(f"{entry} is damaged, its content has another hash: it is made again", stacklevel=2)
            return None
        if os.access(entry, os.W_OK):
            _write_json(entry / ENTRY, found)
    return ImageDataset(name, *splits, stored=entry.name)


def _make(source: Source, folder: Path, key: str) -> ImageDataset:
    """Read the files into a new entry."""
    _wait_until_settled(source.files())
    before = _key(source)
    partial = folder / f"{key}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        digest = hashlib.sha256()
        for name in PARTS:
            part = source.part(name)
            shape = (len(part.labels), *source.shape)
            _check_room(folder, int(np.prod(shape)))
            _write(partial / f"{name}-images.npy", shape, part.blocks, digest)
            _write(partial / f"{name}-labels.npy", tuple(part.labels.shape), [part.labels], digest)
        if _key(source) != before:
            raise UserError(f"the files of data set {source.name} changed while they were read: start again")
        _write_json(partial / ENTRY, {file.name: _stamp(file) for file in sorted(partial.iterdir())})
        entry = folder / digest.hexdigest()
        if (there := _opened(source.name, entry, checked=True)) is None:
            shutil.rmtree(entry, ignore_errors=True)
            partial.replace(entry)
            _sync(folder)
            there = _opened(source.name, entry)
        _write_json(_index(folder, before), {"sha256": entry.name, "data": source.name})
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    assert there is not None
    return there


def _key(source: Source) -> str:
    digest = hashlib.sha256(f"{READER} {PIL.__version__} {source.name} {source.shape}".encode())
    for file in source.files():
        state = file.stat()
        entry = (os.fsencode(file.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def _wait_until_settled(files: Iterable[Path]) -> None:
    newest = max(max(file.stat().st_mtime, file.stat().st_ctime) for file in files)
    time.sleep(min(max(newest + SETTLED - time.time(), 0), SETTLED))


def _check_room(folder: Path, size: int) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise UserError(f"{VARIABLE} is {folder}, which has {free / 2**30:.1f} GiB free of {size / 2**30:.1f} needed")


def _write(file: Path, shape: tuple[int, ...], blocks: Iterable[Tensor], digest: Any) -> None:
    """Write blocks of rows as one array, and add it to the hash as ``ImageDataset.sha256`` does."""
    rows = 0
    with file.open("xb") as out:
        for block in blocks:
            values = block.contiguous().numpy()
            if not rows:
                digest.update(repr((shape, str(block.dtype))).encode())
                kind = np.lib.format.dtype_to_descr(values.dtype)
                np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
            rows += len(values)
            out.write(values.data)
            digest.update(values.data)
        out.flush()
        os.fsync(out.fileno())
    if rows != shape[0]:
        raise UserError(f"{rows} images were read, and there are {shape[0]} labels")


def _mapped(file: Path) -> Tensor:
    """The array in a file, which is mapped into memory and must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.load(file, mmap_mode="r"))


def _stamp(file: Path) -> list[int] | None:
    """Size and time of a file; None where it is absent."""
    try:
        state = file.stat()
    except FileNotFoundError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _index(folder: Path, key: str) -> Path:
    return folder / "sources" / f"{key}.json"


def _json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none."""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_json(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("w") as out:
        json.dump(content, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def _sync(folder: Path) -> None:
    """Make a rename in this folder durable, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
