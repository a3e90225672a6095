"""Reading of files and folders of data: what the system refuses is a ``UserError``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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


def check_name(path: Path, name: str) -> None:
    """Raise ``UserError`` if ``name``, which is ``path`` or its last part, is not UTF-8, as every table is."""
    try:
        name.encode()
    except UnicodeEncodeError as fault:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown} is no name in UTF-8, and cannot be written into a table: rename it") from fault
