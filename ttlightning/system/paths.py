"""Paths with ``~``, machines without a home folder, and commands quoted for a shell."""

import atexit
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ttlightning.errors import UserError


def home() -> Path | None:
    """The user's home folder; None if $HOME is not set and the user has no entry, as in many containers."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if found.is_absolute() else None


def expanded(path: str | Path) -> Path:
    """``path`` with its ``~`` replaced.

    Raises:
        UserError: if the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as fault:
        start = Path(path).parts[0]
        cause = (
            f"$HOME is not set, user {getattr(os, 'getuid', str)()} has no entry"
            if start == "~"
            else f"no user has that name: {start}"
        )
        raise UserError(f"{path}: ~ has no home folder here ({cause}); write the full path") from fault


def command(*words: str | Path) -> str:
    """``python -m ttlightning ...`` with these words, quoted for a shell."""
    return f"python -m ttlightning {words_for_a_shell(words)}"


def words_for_a_shell(words: Sequence[str | Path]) -> str:
    """The words in one line, quoted for a shell."""
    return shlex.join(map(str, words))


LIBRARIES_WRITE: Final = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
"""Variables of the folders where libraries write; by default these are in the home folder."""


def make_do_without_home() -> None:
    """Give libraries a temporary folder if there is no home folder, or it cannot be written.

    W&B does not start without one, and matplotlib warns. Call this before either is imported.
    """
    at_home = home()
    if at_home is not None and os.access(at_home, os.W_OK):
        return
    missing = [n for n in (*LIBRARIES_WRITE, *([] if at_home else ["WANDB_CONFIG_DIR"])) if n not in os.environ]
    if missing:
        folder = tempfile.mkdtemp(prefix="ttlightning-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= dict.fromkeys(missing, folder)
