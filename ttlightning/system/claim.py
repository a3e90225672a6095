"""A claim of a file by a directory beside it, for file systems without locks; it says which process made it.

    <file>.claim/owner.json = {"host", "boot", "namespace", "process", "begun", "token"}

The directory gets its name, with its content, by one rename, which fails where a claim exists. A claim outlives its
process. One of a process of this machine that has ended is taken over. Whether a process of another machine, or of
another container, has ended cannot be told from here: its claim stands until somebody removes it.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import Any, Final

THERE_IS_ONE: Final = (errno.ENOTEMPTY, errno.EEXIST)
"""Errors of a rename to the name of a directory with content."""


class Claim:
    """An exclusive claim of ``file``; one object for each owner."""

    def __init__(self, file: Path) -> None:
        self.folder = file.with_name(f"{file.name}.claim")
        self._owner = self.folder / "owner.json"
        self._me: dict[str, Any] = {}

    @property
    def is_held(self) -> bool:
        """Whether this object holds the claim."""
        return bool(self._me)

    def acquire(self) -> bool:
        """Claim the file, or take over the claim of a process that has ended; False where another owner stands."""
        if self._me:
            return True
        me = identity(os.getpid()) | {"token": secrets.token_hex(8)}
        new = self.folder.with_name(f"{self.folder.name}-{me['token']}")
        new.mkdir()
        try:
            (new / self._owner.name).write_text(json.dumps(me))
            taken = self._take(new) or self._take_over(me)
            while not taken and not self.folder.is_dir():  # it was given back between two looks
                taken = self._take(new) or self._take_over(me)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._me = me if taken else {}
        return taken

    def release(self) -> None:
        """Give the claim back; nothing happens where it is not held, or was removed and made again by another."""
        me, self._me = self._me, {}
        if me and self._read() == me:
            away = self.folder.with_name(f"{self.folder.name}-{me['token']}")
            with contextlib.suppress(FileNotFoundError):
                self.folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def owner(self) -> str:
        """The process that holds the claim; empty without a claim."""
        if not self.folder.is_dir():
            return ""
        owner = self._read() or {}
        return f"process {owner.get('process', 'unknown')} on {owner.get('host', 'an unknown machine')}"

    def _take(self, new: Path) -> bool:
        """Give the directory its name; False where there is one."""
        try:
            new.rename(self.folder)
        except OSError as fault:
            if fault.errno not in THERE_IS_ONE and not self.folder.is_dir():
                raise
            return False
        return True

    def _take_over(self, me: dict[str, Any]) -> bool:
        """Write our name into the claim of a dead process. Of several that try, one makes the directory inside."""
        owner = self._read()
        if owner is None or not has_ended(owner):
            return False
        right = self.folder / "taken_over"
        try:
            right.mkdir()
        except (FileExistsError, FileNotFoundError):  # another process does it, or the claim was given back
            return False
        try:
            if self._read() != owner:  # another process has done it before
                return False
            new = self.folder / f"{me['token']}.json"
            new.write_text(json.dumps(me))
            new.replace(self._owner)
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                right.rmdir()

    def _read(self) -> dict[str, Any] | None:
        try:
            owner = json.loads(self._owner.read_text())
        except (OSError, ValueError):
            return None
        return owner if isinstance(owner, dict) else None


def identity(process: int) -> dict[str, Any]:
    """What tells a process from every other: machine, its last start, container, number, and the time it began at."""
    return {
        "host": socket.gethostname(),
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "namespace": _link(Path("/proc/self/ns/pid")),
        "process": process,
        "begun": _begun(process),
    }


def has_ended(owner: dict[str, Any]) -> bool:
    """Whether the process is known to have ended; False where that cannot be known here."""
    process = owner.get("process")
    if not isinstance(process, int) or owner.get("host") != socket.gethostname():
        return False
    now = identity(process)
    if owner.get("boot") != now["boot"]:
        return bool(owner.get("boot") and now["boot"])  # the machine has started again since
    if owner.get("namespace") != now["namespace"]:
        return False
    if now["boot"]:  # a system with /proc
        return owner.get("begun") != now["begun"]  # the number may have been given to another process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _begun(process: int) -> str:
    """Clock ticks from the start of the machine to that of the process; empty if it is gone, a zombie, or unknown."""
    fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115, a Path would lose the brackets of a name that is no file
    except OSError:
        return ""
