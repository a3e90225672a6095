"""The argument parser of the verbs: a mistake is one line, exit code 2."""

import re
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from jsonargparse import ArgumentParser

from ttlightning.errors import UserError
from ttlightning.runs.identity import RENAMED_KEYS
from ttlightning.system.parsing import unknown_option

RENAMED: Final = RENAMED_KEYS | {
    "tt-rank": "rank", "order": "sites", "check-only": "check_only", "mixed-data": "mixed_data"
}  # fmt: skip
"""Key or option of version 0.1: its name now."""


def renamed_since_0_1(message: str) -> str:
    """What to add to a parser's message about a key or option of version 0.1; nothing for other messages."""
    name = (unknown_option(message) or "").rpartition(".")[2]
    is_said = "since version 0.2" in message  # by the parser of a part
    return f"; since version 0.2 {name} is called {RENAMED[name]}" if name in RENAMED and not is_said else ""


class PlainErrors(ArgumentParser):
    """A parser whose every refusal is a ``UserError`` of one line, without usage text."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """jsonargparse's own; what its type checks let escape (IndexError, RecursionError) is a mistake of the user."""
        try:
            return super().parse_args(args, *rest, **options)
        except UserError:
            raise
        except Exception as fault:
            raise UserError(
                f"the options {shlex.join(map(str, args or []))} cannot be read together ({type(fault).__name__}: "
                f"{fault}); leave out one after the other to see which does not fit"
            ) from fault

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(" ".join(message.split()) + self.way_out(message)) from ex

    def way_out(self, message: str) -> str:
        return renamed_since_0_1(message)


class ParserWanted(BaseException):
    """Ends a verb that was called for its parser: see ``parser_of``. No fault, so that nothing takes it for one."""

    def __init__(self, parser: "VerbParser") -> None:
        super().__init__("a parser was wanted, and no verb")
        self.parser = parser


class VerbParser(PlainErrors):
    """The parser of a verb without a trainer."""

    _wanted: ClassVar[ContextVar[bool]] = ContextVar("parser wanted", default=False)

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"python -m ttlightning {verb}", description=description)

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        if self._wanted.get():
            raise ParserWanted(self)
        return super().parse_args(args, *rest, **options)


def parser_of(main: Callable[[Sequence[str]], int]) -> VerbParser:
    """The parser that ``main`` of a verb makes; the verb ends before it reads an argument."""
    token = VerbParser._wanted.set(True)
    try:
        main([])
    except ParserWanted as answer:
        return answer.parser
    finally:
        VerbParser._wanted.reset(token)
    raise TypeError(f"{main.__module__} parses no arguments")


def check_new_file(path: Path, option: str) -> None:
    """``UserError`` if the file exists or its folder does not; to be called before any work."""
    if path.exists():
        raise UserError(f"{path} exists and is left as it is; name another file with {option}")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is not a folder; make it first or name another with {option}")


def integers(name: str, text: str) -> list[int]:
    """``5``, ``2,4,8`` or ``2:12`` (both ends) as integers; ``UserError`` for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", part.strip())
        if match is None:
            raise UserError(f"{name} is {text!r}, it must be a number, a list such as 2,4,8 or a range such as 2:12")
        start, end = int(match[1]), int(match[2] or match[1])
        if end < start or end - start > 10_000:
            raise UserError(f"{name} is {text!r}: the range {part} is empty or has over 10,000 numbers")
        found += range(start, end + 1)
    return found
