"""IDX, the format of MNIST: plain or gzipped files under the data root, the user's own or downloaded.

An IDX file has four bytes (0, 0, type, number of dimensions), the sizes of the dimensions as four bytes each, and the
values. The type here is 8, unsigned bytes; images have three dimensions and labels have one.
"""

import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision.datasets.utils import calculate_md5, check_integrity

from ttlightning.data.pictures import Pictures
from ttlightning.data.reading import entries, is_folder, read_file
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
    if len(content) < 4 or content[:2] != b"\0\0":
        raise UserError(f"{path} is no IDX file: it must begin with two zero bytes, a type and a number of dimensions")
    if content[2] != 8:
        raise UserError(f"{path} has values of the IDX type {content[2]:#04x}; it must be 0x08, unsigned bytes")
    if content[3] != dimensions:
        raise UserError(f"{path} has {content[3]} dimensions, it must have {dimensions}")
    begin = 4 + 4 * dimensions
    shape = [int(size) for size in np.frombuffer(content[4:begin].ljust(begin - 4, b"\0"), dtype=">u4")]
    wanted = begin + math.prod(shape)
    if len(content) < wanted or len(content) < begin:
        raise UserError(f"{path} is truncated: {len(content):,} bytes, and {max(wanted, begin):,} by its header")
    if len(content) > wanted:
        raise UserError(f"{path} is damaged: {len(content) - wanted:,} bytes follow the {wanted:,} of its header")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=begin).reshape(shape).copy())


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
    files = [next(filter(Path.is_file, paths)) for paths in _spellings(folder, part)]
    images, labels = (idx_of(read_file(file), file, size) for file, size in zip(files, KINDS.values(), strict=True))
    if images.shape[1:] != shape[1:]:
        height, width = images.shape[1:]
        raise UserError(
            f"{files[0]} has images {width} pixels wide and {height} high, expected {shape[2]} by {shape[1]}"
        )
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{files[0]} and {files[1].name} have {len(images)} images and {len(labels)} labels")
    if int(labels.max()) >= classes:
        raise UserError(
            f"{files[1]} has labels from {int(labels.min())} to {int(labels.max())}, they must be 0 to {classes - 1}: "
            "number the classes from 0"
        )
    return images.unsqueeze(1), labels.long()


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
