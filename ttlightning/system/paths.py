"""Paths with ``~``, machines without a home folder, and commands quoted for a shell."""

import atexit
import contextlib
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from ttlightning.errors import UserError


def home() -> Path | None:
    """The user's home folder; None if $HOME is not set and the user has no entry, as in many containers."""
    with contextlib.suppress(RuntimeError):
        return Path.home() if Path.home().is_absolute() else None
    return None


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
    return f"python -m ttlightning {shlex.join(map(str, words))}"


def make_do_without_home() -> None:
    """Give libraries a temporary folder if there is no home folder, or it cannot be written.

    W&B does not start without one, and matplotlib warns. Call this before either is imported.
    """
    at_home = home()
    if at_home is not None and os.access(at_home, os.W_OK):
        return
    names = ["MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"] + ([] if at_home else ["WANDB_CONFIG_DIR"])
    if missing := [name for name in names if name not in os.environ]:
        folder = tempfile.mkdtemp(prefix="ttlightning-home-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= dict.fromkeys(missing, folder)
