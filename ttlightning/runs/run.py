"""A run directory: where a run keeps its configuration, provenance, metrics, result and checkpoints.

<root>/<experiment>/<n>/  config.yaml  provenance.json  metrics.csv  result.json  checkpoints/  wandb/  rank/
"""

import errno
import fcntl
import functools
import os
import re
import warnings
from pathlib import Path
from typing import IO, Any, Final

from ttlightning.errors import UserError
from ttlightning.system.paths import expanded

NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has no locks."""


def runs_root() -> Path:
    """``$TTLIGHTNING_RUNS``, else ``runs`` in the working directory.

    Raises:
        UserError: where its path is not UTF-8, which W&B's files and the command line's options must be.
    """
    root = expanded(os.environ.get("TTLIGHTNING_RUNS") or "runs")
    try:
        str(root.absolute()).encode()
    except UnicodeEncodeError as fault:
        raise UserError(
            f"runs would lie in {os.fsencode(root.absolute())!r}, which is not UTF-8; set $TTLIGHTNING_RUNS"
        ) from fault
    return root


def create_run_directory(root: Path, experiment: str) -> Path:
    """Make and return ``root/experiment/n`` with the first n above those that exist.

    Making the directory is what claims the number, so that two runs started at one moment get two directories.

    Raises:
        UserError: where ``root`` cannot be written.
    """
    parent = root / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=-1) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:
                number += 1
    except OSError as fault:
        raise UserError(
            f"cannot make a run directory in {parent}: {fault.strerror}; "
            "set $TTLIGHTNING_RUNS to a folder you can write"
        ) from fault


def latest_run(root: Path, experiment: str | None) -> Path:
    """The run of ``experiment`` with the highest number; of all experiments, the one that was begun last.

    Raises:
        UserError: where there is none.
    """
    found = [
        config.parent for config in root.glob(f"{experiment or '*'}/*/config.yaml") if config.parent.name.isdigit()
    ]
    if not found:
        raise UserError(f"there is no run in {root / (experiment or '')} to go on with; name one such as runs/eq/0")
    return max(found, key=lambda run: int(run.name) if experiment else (run / "config.yaml").stat().st_mtime_ns)


def lock_run(run: Path) -> IO[bytes]:
    """Claim the run, by a lock on its ``config.yaml``: until the returned file is closed, or the process ends.

    Raises:
        UserError: where another process has it.
    """
    config = run / "config.yaml"
    file = config.open("r+b" if os.access(config, os.W_OK) else "rb")  # NFS locks only what is open to be written
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        file.close()
        raise UserError(f"{run} is being written by another process; wait for it, or stop it first") from fault
    return file


def lock(file: IO[Any], operation: int) -> None:
    """``flock``; on a file system that has no locks (some network and cluster ones), a warning and no lock.

    Raises:
        BlockingIOError: where another process has the lock and the operation is not to wait for it.
    """
    try:
        fcntl.flock(file, operation)
    except OSError as fault:
        if fault.errno not in NO_LOCKS:
            raise
        _warn_that_there_are_no_locks(fault.strerror)


@functools.cache
def _warn_that_there_are_no_locks(reason: str) -> None:
    """Once a process."""
    warnings.warn(
        f"the file system of the runs has no locks ({reason}): nothing keeps two processes from writing to one run, "
        "so start each only once",
        stacklevel=4,
    )


def check_experiment_name(name: str) -> str:
    """``name`` if it can be a folder's name; ``UserError`` if not."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(f"experiment is {name!r}, it must be letters, digits and . _ + - (it names a folder)")
    return name
