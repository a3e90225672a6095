"""A lock between processes, which ends with the process that holds it, however that process ends."""

import contextlib
import errno
import functools
import warnings
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that have no locks, as some network and cluster file systems."""


class Lock:
    """An exclusive lock on ``file``, which exists only while the lock is held or after a process was killed.

    The lock is the operating system's (``flock``), so it ends with its process. On a file system without locks, a
    warning is given once per process and nothing is locked.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        # A file whose existence is the lock would outlive its process: no fallback to that.
        self._lock = FileLock(file, thread_local=False, fallback_to_soft=False)

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
        return True

    def release(self) -> None:
        """Give the lock back and remove its file; nothing happens where it is not held."""
        if not self._lock.is_locked:
            return
        with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
            self._file.unlink(missing_ok=True)  # filelock starts anew with a file that was removed under its lock
        self._lock.release()


@functools.cache
def _warn_without_locks(reason: str) -> None:
    """Warn once per process and reason."""
    warnings.warn(
        f"the file system of the runs has no locks ({reason}): nothing keeps two processes from writing to one run, "
        "so start each only once",
        stacklevel=4,
    )
