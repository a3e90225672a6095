"""IDX, the format of MNIST: files of whoever made them, plain or gzipped, wherever they lie under the data root.

Four zero-one bytes (0, 0, type, dimensions), a size of four bytes for each dimension, the values. Here the type is 8,
unsigned bytes; images have three dimensions and labels one. What the data are, the hash of their content says.
"""

import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torchvision.datasets.utils import calculate_md5, check_integrity

from ttlightning.data.pictures import entries, is_folder, read_file
from ttlightning.errors import UserError

Part = Literal["train", "test"]

MOST_INFLATED: Final = 1032
"""Bytes that one byte of a deflated file can stand for, at most."""

PREFIX: Final[dict[Part, str]] = {"train": "train", "test": "t10k"}
KINDS: Final = ("images", 3), ("labels", 1)
"""What a file holds, and how many dimensions that has."""

GZIP: Final = b"\x1f\x8b"
ENDINGS: Final = ("", ".gz")
DAMAGED_GZIP: Final = (EOFError, OSError, zlib.error)


def is_idx(content: bytes) -> bool:
    """Whether a file begins as an IDX file does, or as a compressed one."""
    return content.startswith((b"\0\0", GZIP))


def idx_of(content: bytes, path: Path, dimensions: int) -> UInt8[Tensor, "..."]:
    """The bytes in an IDX file's content; ``path`` is for messages.

    Raises:
        UserError: no IDX file, values of another type, other dimensions, or less or more than the header says.
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
    """A gzipped IDX file, no further than a byte behind what its header promises: a small file can hold any number."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        head = file.read(4)
        sizes = file.read(4 * head[3]) if head[:3] == b"\0\0\x08" else b""
        promised = math.prod(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], dtype=">u4"))
        return head + sizes + file.read(min(promised, len(content) * MOST_INFLATED) + 1)


def read_part(
    folder: Path, part: Part, shape: tuple[int, int, int], classes: int
) -> tuple[UInt8[Tensor, "samples channels height width"], Int[Tensor, " samples"]]:
    """Images and labels of one part, from a folder that ``find_folder`` found.

    Raises:
        UserError: a file that is damaged, images of another size, other numbers of them, labels that are no classes.
    """
    files = _files(folder, part)
    images, labels = (idx_of(read_file(file), file, size) for file, (_, size) in zip(files, KINDS, strict=True))
    if images.shape[1:] != shape[1:]:
        height, width = images.shape[1:]
        raise UserError(
            f"{files[0]} has images {width} pixels wide and {height} high, expected {shape[2]} by {shape[1]}"
        )
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{files[0]} and {files[1].name} have {len(images)} images and {len(labels)} labels")
    if int(labels.max()) >= classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise UserError(
            f"{files[1]} has labels from {found}, they must be 0 to {classes - 1}: number the classes from 0"
        )
    return images.unsqueeze(1), labels.long()


def find_folder(root: Path, name: str, all_names: Sequence[str]) -> Path | None:
    """The folder under ``root`` that has the four files of data set ``name``, None where there is none.

    It is ``name/raw``, ``name``, the same with other capitals and hyphens, or ``root`` itself, unless that is called
    like another of ``all_names``.
    """
    root = root.absolute()
    alike = sorted(p for p in entries(root) if _plain(p.name) == _plain(name)) if is_folder(root) else []
    places = [place for folder in (root / name, *alike) for place in (folder / "raw", folder)]
    own = _plain(root.parent.name if root.name == "raw" else root.name)
    if own not in {_plain(other) for other in all_names} - {_plain(name)}:
        places += [root / "raw", root]
    return next((place for place in places if not _missing(place)), None)


def check_whose(folder: Path, name: str, owners: Mapping[str, str]) -> None:
    """``UserError`` where a file's MD5 is that of another data set's in ``owners``: then it is not ``name``'s."""
    for file in sorted(folder.glob("*.gz")):
        owner = owners.get(calculate_md5(file), name)
        if owner != name:
            raise UserError(f"{file} is of the data set {owner}, and not of {name}: use --data.dataset {owner}")


def check_that_nothing_is_lost(folder: Path, resources: Sequence[tuple[str, str]]) -> None:
    """``UserError`` where a download into ``folder`` would write over files that are none of a download's.

    A download's are those with the MD5 that ``resources`` has beside their names, what was unpacked from them, and one
    that was cut off.
    """
    whole = {name for name, md5 in resources if check_integrity(str(folder / name), md5)}
    names = [name for part in PREFIX for kind in KINDS for name in _names(part, kind) if (folder / name).is_file()]
    own = [n for n in names if n not in whole and f"{n}.gz" not in whole and not _is_cut_off(folder / n)]
    if own:
        raise UserError(
            f"{folder} has {own[0]} and no {_missing(folder)[0]}: put it there too, or name another folder with "
            "--data.root, into which the data set can be downloaded"
        )


def _missing(folder: Path) -> list[str]:
    """Names of those of the four files that are not in a folder."""
    return [_names(part, kind)[0] for part in PREFIX for kind in KINDS if _find(folder, part, kind) is None]


def _is_cut_off(file: Path) -> bool:
    """Whether a compressed file is not whole."""
    if file.suffix != ".gz":
        return False
    try:
        _inflated(read_file(file))
    except DAMAGED_GZIP:
        return True
    return False


def _files(folder: Path, part: Part) -> list[Path]:
    found = [_find(folder, part, kind) for kind in KINDS]
    return [file for file in found if file is not None]


def _find(folder: Path, part: Part, kind: tuple[str, int]) -> Path | None:
    return next((folder / name for name in _names(part, kind) if (folder / name).is_file()), None)


def _names(part: Part, kind: tuple[str, int]) -> list[str]:
    what, dimensions = kind
    stems = (f"{PREFIX[part]}-{what}{mark}idx{dimensions}-ubyte" for mark in "-.")
    return [stem + ending for stem in stems for ending in ENDINGS]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
