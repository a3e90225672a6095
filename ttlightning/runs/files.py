"""Files that are written completely or not at all, and JSON objects in them."""

import json
import os
from pathlib import Path
from typing import Any

from ttlightning.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader, or a fault, meets the old content or the new one, never a part of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file atomically by a JSON object."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run directory; ``UserError`` where there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as fault:
        raise UserError(f"{path} does not exist; name the directory of a finished run, such as runs/eq/0") from fault
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path} cannot be read: {fault}") from fault
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content
