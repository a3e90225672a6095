"""Reading of files and folders of data: what the system refuses is a ``UserError``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ttlightning.errors import UserError

T = TypeVar("T")


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault


def is_folder(path: Path) -> bool:
    return _read(path, Path.is_dir)


def read_file(path: Path) -> bytes:
    return _read(path, Path.read_bytes)


def entries(folder: Path) -> list[Path]:
    """Paths in a folder without hidden files."""
    return [path for path in _read(folder, lambda f: list(f.iterdir())) if not path.name.startswith(".")]


class Kind(NamedTuple):
    """A path's name, and what is there; a link is what it leads to, and one that leads nowhere is neither."""

    name: str
    is_folder: bool
    is_file: bool


def listing(folder: Path) -> list[Kind]:
    """What is in a folder by name, without hidden files; the system is not asked about every file."""

    def look(folder: Path) -> list[Kind]:
        with os.scandir(folder) as found:
            return [_kind(entry) for entry in found if not entry.name.startswith(".")]

    return sorted(_read(folder, look))


def _kind(entry: "os.DirEntry[str]") -> Kind:
    if entry.is_symlink():
        path = Path(entry.path)
        return Kind(entry.name, path.is_dir(), path.is_file())
    return Kind(entry.name, entry.is_dir(), entry.is_file())


def check_name(path: Path, name: str) -> None:
    """Raise ``UserError`` if ``name``, which is ``path`` or its last part, is not UTF-8, as every table is."""
    try:
        name.encode()
    except UnicodeEncodeError as fault:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown} is no name in UTF-8, and cannot be written into a table: rename it") from fault
