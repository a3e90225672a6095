"""One command: which code runs it, and how it ends."""

import errno
import sys
from collections.abc import Sequence
from typing import NoReturn

from ttlightning.commands import VERBS
from ttlightning.errors import Fault, Stopped, UserError
from ttlightning.runs.masking import without_secrets
from ttlightning.system import signals
from ttlightning.system.output import show_own_warnings_in_one_line
from ttlightning.system.processes import is_first_process

DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
"""Error numbers of a disk that is full, read-only or broken."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command. Exit code 2 after a user's mistake, 1 after a fault, 128 + the signal's number after a signal.

    Each of these endings is one line on stderr.
    """
    with signals.listening():
        try:
            _run(list(sys.argv[1:] if args is None else args))
        except Stopped as stop:
            # Lightning kills rank 0 as soon as a rank that it has started ends with another code than 0.
            _end(stop, 0 if signals.is_launched_rank() else stop.exit_code)


def _run(args: list[str]) -> None:
    show_own_warnings_in_one_line()
    try:
        if args and args[0] in VERBS:
            sys.exit(VERBS[args[0]][1](args[1:]))
        with signals.importing():
            from ttlightning.commands.cli import run  # Lightning takes seconds to import
        run(args)
    except Fault as fault:
        _end(fault, 1)
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_REFUSES:
            _end(fault, 1)
        signals.raise_if_stopped(fault)
        if isinstance(fault, UserError):
            _end(fault, 2)
        raise


def _end(reason: BaseException, code: int) -> NoReturn:
    """Print the reason with its notes in one line, and exit."""
    if is_first_process():
        line = "; ".join([str(reason), *getattr(reason, "__notes__", [])])
        parts = (part.strip() for part in without_secrets(line).splitlines())
        print(f"ttlightning: {' '.join(filter(None, parts))}", file=sys.stderr)
    sys.exit(code)
