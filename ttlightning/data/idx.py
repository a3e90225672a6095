"""IDX, the format of MNIST: plain or gzipped files under the data root, the user's own or downloaded.

An IDX file has four bytes (0, 0, type, number of dimensions), the sizes of the dimensions as four bytes each, and the
values. The type here is 8, unsigned bytes; images have three dimensions and labels have one.
"""

import contextlib
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision.datasets.utils import calculate_md5, check_integrity

from ttlightning.data.arrays import Shape
from ttlightning.data.cache import Part, check_memory
from ttlightning.data.pictures import Pictures
from ttlightning.data.reading import entries, is_folder, read_file
from ttlightning.data.rows import BLOCK
from ttlightning.errors import UserError

MOST_INFLATED: Final = 1032
"""Largest compression ratio of deflate."""

PREFIX: Final = {"train": "train", "test": "t10k"}
KINDS: Final = {"images": 3, "labels": 1}
"""Content of a file: number of its dimensions."""

GZIP: Final = b"\x1f\x8b"
DAMAGED_GZIP: Final = (EOFError, OSError, zlib.error)


def is_idx(content: bytes) -> bool:
    """Whether the content begins like an IDX file or a gzip file."""
    return content.startswith((b"\0\0", GZIP))


def idx_of(content: bytes, path: Path, dimensions: int) -> UInt8[Tensor, "..."]:
    """The values in an IDX file's content; ``path`` is for messages.

    Raises:
        UserError: the content is not IDX, has another type or number of dimensions, or another size than its header.
    """
    if content.startswith(GZIP):
        try:
            content = _inflated(content)
        except DAMAGED_GZIP as fault:
            raise UserError(f"{path} is damaged or truncated: {fault}") from fault
    begin, shape = 4 + 4 * dimensions, _shape_of(content, path, dimensions)
    wanted = begin + math.prod(shape)
    if len(content) < wanted or len(content) < begin:
        raise UserError(f"{path} is truncated: {len(content):,} bytes, and {max(wanted, begin):,} by its header")
    if len(content) > wanted:
        raise UserError(f"{path} is damaged: {len(content) - wanted:,} bytes follow the {wanted:,} of its header")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=begin).reshape(shape).copy())


def _shape_of(head: bytes, path: Path, dimensions: int) -> list[int]:
    """Sizes of the dimensions, from the beginning of a file."""
    if len(head) < 4 or head[:2] != b"\0\0":
        raise UserError(f"{path} is no IDX file: it must begin with two zero bytes, a type and a number of dimensions")
    if head[2] != 8:
        raise UserError(f"{path} has values of the IDX type {head[2]:#04x}; it must be 0x08, unsigned bytes")
    if head[3] != dimensions:
        raise UserError(f"{path} has {head[3]} dimensions, it must have {dimensions}")
    begin = 4 + 4 * dimensions
    return [int(size) for size in np.frombuffer(head[4:begin].ljust(begin - 4, b"\0"), dtype=">u4")]


def _inflated(content: bytes) -> bytes:
    """Decompress a gzipped IDX file up to one byte beyond the size in its header: a small file can expand to any."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        head = file.read(4)
        sizes = file.read(4 * head[3]) if head[:3] == b"\0\0\x08" else b""
        promised = math.prod(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], dtype=">u4"))
        return head + sizes + file.read(min(promised, len(content) * MOST_INFLATED) + 1)


def read_part(
    folder: Path, part: str, shape: tuple[int, int, int], classes: int
) -> tuple[Pictures, Int[Tensor, " samples"]]:
    """Images and labels of ``part``, train or test, in a folder that ``find_folder`` gives.

    Raises:
        UserError: a damaged file, images of another size, fewer images than labels or more, labels out of range.
    """
    files = files_of(folder, part)
    check_memory(files[0].stat().st_size, files[0])
    images, labels = (idx_of(read_file(file), file, size) for file, size in zip(files, KINDS.values(), strict=True))
    _check_part(files, images.shape, labels, shape, classes)
    return images.unsqueeze(1), labels.long()


def part_in_blocks(folder: Path, part: str, shape: tuple[int, int, int], classes: int) -> Part:
    """Images and labels as of ``read_part``, a block of images at a time; the end of the file is checked last."""
    files = files_of(folder, part)
    labels = idx_of(read_file(files[1]), files[1], 1)
    with _stream(files[0]) as file:
        sizes = _shape_of(file.read(16), files[0], 3)
    _check_part(files, sizes, labels, shape, classes)
    return Part(labels.long(), _blocks(files[0], sizes))


def files_of(folder: Path, part: str) -> list[Path]:
    """The file of the images of a part, and that of its labels."""
    return [next(filter(Path.is_file, paths)) for paths in _spellings(folder, part)]


def _check_part(files: Sequence[Path], sizes: Sequence[int], labels: Tensor, shape: Shape, classes: int) -> None:
    (samples, height, width) = sizes
    if (height, width) != shape[1:]:
        raise UserError(
            f"{files[0]} has images {width} pixels wide and {height} high, expected {shape[2]} by {shape[1]}"
        )
    if samples != len(labels) or not len(labels):
        raise UserError(f"{files[0]} and {files[1].name} have {samples} images and {len(labels)} labels")
    if int(labels.max()) >= classes:
        raise UserError(
            f"{files[1]} has labels from {int(labels.min())} to {int(labels.max())}, they must be 0 to {classes - 1}: "
            "number the classes from 0"
        )


def _blocks(path: Path, sizes: Sequence[int]) -> Iterator[Pictures]:
    """The images of a file, ``BLOCK`` bytes at a time."""
    samples, height, width = sizes
    rows = max(1, BLOCK // (height * width))
    with _stream(path) as file:
        file.seek(16)
        for start in range(0, samples, rows):
            wanted = min(rows, samples - start) * height * width
            content = file.read(wanted)
            if len(content) < wanted:
                there, whole = (
                    16 + start * height * width + n for n in (len(content), (samples - start) * height * width)
                )
                raise UserError(f"{path} is truncated: {there:,} bytes, and {whole:,} by its header")
            yield torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, 1, height, width).copy())
        if file.read(1):
            raise UserError(f"{path} is damaged: bytes follow those of its header")


@contextlib.contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked where it is gzipped."""
    try:
        with path.open("rb") as file:
            begin = file.read(2)
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if begin == GZIP else file
    except DAMAGED_GZIP as fault:
        raise UserError(f"{path} is damaged or truncated: {fault}") from fault


def find_folder(root: Path, name: str, all_names: Sequence[str]) -> Path | None:
    """The folder under ``root`` with the four files of data set ``name``; None without one.

    Candidates are ``name/raw``, ``name``, both with other capitals and hyphens, and ``root`` itself unless it has the
    name of another data set in ``all_names``.
    """
    root = root.absolute()
    alike = sorted(p for p in entries(root) if _plain(p.name) == _plain(name)) if is_folder(root) else []
    candidates = [path for folder in (root / name, *alike) for path in (folder / "raw", folder)]
    own = _plain(root.parent.name if root.name == "raw" else root.name)
    if own not in {_plain(other) for other in all_names} - {_plain(name)}:
        candidates += [root / "raw", root]
    return next((folder for folder in candidates if not _missing(folder)), None)


def check_whose(folder: Path, name: str, owners: Mapping[str, str]) -> None:
    """``UserError`` if a file has the MD5 of another data set; ``owners`` has the data set of each MD5."""
    for file in sorted(folder.glob("*.gz")):
        owner = owners.get(calculate_md5(file), name)
        if owner != name:
            raise UserError(f"{file} is of the data set {owner}, and not of {name}: use --data.dataset {owner}")


def check_that_nothing_is_lost(folder: Path, resources: Sequence[tuple[str, str]]) -> None:
    """``UserError`` if a download into ``folder`` would replace the user's own files.

    Files of an earlier download have the MD5 in ``resources``, were unpacked from such a file, or are cut off.
    """
    downloaded = {name for name, md5 in resources if check_integrity(str(folder / name), md5)}
    files = [path for part in PREFIX for paths in _spellings(folder, part) for path in paths if path.is_file()]
    own = [f for f in files if not {f.name, f"{f.name}.gz"} & downloaded and not _is_cut_off(f)]
    if own:
        raise UserError(
            f"{folder} has {own[0].name} and no {_missing(folder)[0]}: put it there too, or name another folder with "
            "--data.root, into which the data set can be downloaded"
        )


def _missing(folder: Path) -> list[str]:
    """Names of the files that a folder lacks of the four."""
    return [paths[0].name for part in PREFIX for paths in _spellings(folder, part) if not any(map(Path.is_file, paths))]


def _is_cut_off(file: Path) -> bool:
    """Whether the end of a compressed file is missing."""
    if file.suffix != ".gz":
        return False
    try:
        _inflated(read_file(file))
    except DAMAGED_GZIP:
        return True
    return False


def _spellings(folder: Path, part: str) -> list[list[Path]]:
    """Possible paths of the images of a part, and those of its labels."""
    return [
        [folder / f"{PREFIX[part]}-{kind}{mark}idx{size}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
        for kind, size in KINDS.items()
    ]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
