"""A lock between processes: the operating system's, or a claim where the file system has no locks."""

import contextlib
import errno
import functools
import time
import warnings
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ttlightning.system.claim import Claim

NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that have no locks, as some network and cluster file systems."""

PATIENCE: Final = 0.2
"""Seconds between two looks at another owner's claim."""


class Lock:
    """An exclusive lock on ``file``, which exists only while the lock is held or after a process was killed.

    The lock is the operating system's (``flock``), so it ends with its process, however that process ends. On a file
    system without locks, a warning is given once per process, and a directory beside the file is the claim of one
    process: see ``system/claim.py``.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        # A file whose existence is the lock would outlive its process: no fallback to that.
        self._lock = FileLock(file, thread_local=False, fallback_to_soft=False)
        self._claim = Claim(file)

    def acquire(self, wait: bool) -> bool:
        """Take the lock; False where another process has it and ``wait`` is False."""
        try:
            self._lock.acquire(blocking=wait)
        except Timeout:
            return False
        except OSError as fault:
            if fault.errno not in NO_LOCKS:
                raise
            self._file.unlink(missing_ok=True)
            _warn_without_locks(fault.strerror)
            return self._claimed(wait)
        return True

    def release(self) -> None:
        """Give the lock back and remove its file; nothing happens where it is not held."""
        self._claim.release()
        if not self._lock.is_locked:
            return
        with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
            self._file.unlink(missing_ok=True)  # filelock starts anew with a file that was removed under its lock
        self._lock.release()

    def owner(self) -> tuple[str, Path]:
        """Who holds a lock that could not be taken, as far as that is known; and what to remove if it has ended."""
        process = self._claim.owner()
        return (process, self._claim.folder) if process else ("another process", self._file)

    def _claimed(self, wait: bool) -> bool:
        is_said = False
        while not self._claim.acquire():
            if not wait:
                return False
            if not is_said:
                process, left = self.owner()
                warnings.warn(f"waiting for {process}; if it has ended, remove {left}", stacklevel=4)
                is_said = True
            time.sleep(PATIENCE)
        return True


@functools.cache
def _warn_without_locks(reason: str) -> None:
    """Warn once per process and reason."""
    warnings.warn(
        f"the file system has no locks ({reason}): directories called *.claim keep two processes apart, and one that "
        "a killed process on another machine leaves must be removed by hand",
        stacklevel=5,
    )
