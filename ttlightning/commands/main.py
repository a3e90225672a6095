"""One command: which code runs it, and how it ends."""

import difflib
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Final, NoReturn

from ttlightning.commands import WITH_TRAINER, WITHOUT_TRAINER, overview
from ttlightning.commands.short_help import full_help, short_help, wants_short_help
from ttlightning.errors import Fault, Stopped, UserError
from ttlightning.runs.masking import without_secrets
from ttlightning.system import signals
from ttlightning.system.extras import needed_by
from ttlightning.system.output import printable, show_own_warnings_in_one_line
from ttlightning.system.processes import is_first_process

DISK_REFUSES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
"""Error numbers of a disk that is full, read-only or broken."""

HELP: Final = ("-h", "--help")


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
        verb = args[0] if args else ""
        with needed_by(verb):
            _run_verb(verb, args)
    except Fault as fault:
        _end(fault, 1)
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno in DISK_REFUSES:
            _end(fault, 1)
        signals.raise_if_stopped(fault)
        if isinstance(fault, UserError):
            _end(fault, 2)
        raise


def _run_verb(verb: str, args: list[str]) -> None:
    if verb in HELP:
        print(overview())
    elif verb in WITH_TRAINER and wants_short_help(args[1:]):
        print(short_help(verb))
    elif verb in WITHOUT_TRAINER:
        with signals.importing():
            module = import_module(f"ttlightning.commands.{verb}")
        sys.exit(module.main(args[1:]))
    elif verb in WITH_TRAINER or verb.startswith("-"):
        _announce(verb, args)
        with signals.importing():
            cli = import_module("ttlightning.commands.cli")
            several = import_module("ttlightning.commands.seeds_at_once")
        if verb == "fit" and several.is_asked(args):
            sys.exit(several.main(args[1:], main))
        cli.run([verb, *full_help(args[1:])])
    else:
        verbs = list(WITH_TRAINER | WITHOUT_TRAINER)
        near = [f"did you mean {name}?" for name in difflib.get_close_matches(verb, verbs, n=1)]
        [way_out] = near or ["--help says what they do"]
        raise UserError(f"the first word is {verb!r}, it must be a verb: {', '.join(verbs)}; {way_out}")


def _announce(verb: str, args: Sequence[str]) -> None:
    """Print a first line, since Lightning takes seconds to import; none if the output is text such as a config."""
    is_text = not verb.isalpha() or any(word in HELP or word.startswith("--print") for word in args)
    if "lightning" not in sys.modules and not is_text and is_first_process():
        print(f"{verb:<11} ttlightning {version('ttlightning')}, importing PyTorch Lightning", flush=True)


def _end(reason: BaseException, code: int) -> NoReturn:
    """Print the reason with its notes in one line, and exit."""
    if is_first_process():
        line = "; ".join([str(reason), *getattr(reason, "__notes__", [])])
        print(f"ttlightning: {printable(without_secrets(line))}", file=sys.stderr)
    sys.exit(code)
