"""Paths as people write them: ``~`` where there may be no home, and commands that a shell takes back as they are."""

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
    """The user's home folder; None where $HOME is not set and the system knows no such user, as in many containers."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if found.is_absolute() else None


def expanded(path: str | Path) -> Path:
    """``path`` with its ``~`` replaced.

    Raises:
        UserError: where ``~`` stands for no folder here.
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
        raise UserError(
            f"{path}: there is no home folder that ~ could stand for ({cause}); write the whole path"
        ) from fault


def command(*words: str | Path) -> str:
    """``python -m ttlightning ...`` with these words, each quoted for a shell where it must be."""
    return f"python -m ttlightning {words_for_a_shell(words)}"


def words_for_a_shell(words: Sequence[str | Path]) -> str:
    """The words in one line, each quoted where a shell would read it otherwise."""
    return shlex.join(map(str, words))


LIBRARIES_WRITE: Final = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
"""Where libraries write files of their own; by default in the home folder."""


def make_do_without_home() -> None:
    """Where there is no home folder, or none to write in, give libraries one that ends with this process.

    W&B would not begin without, matplotlib would complain. To be called before they are imported.
    """
    at_home = home()
    if at_home is not None and os.access(at_home, os.W_OK):
        return
    missing = [n for n in (*LIBRARIES_WRITE, *([] if at_home else ["WANDB_CONFIG_DIR"])) if n not in os.environ]
    if missing:
        folder = tempfile.mkdtemp(prefix="ttlightning-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= dict.fromkeys(missing, folder)
