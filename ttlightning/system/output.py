"""The terminal: output without a reader, long lines and wide tables, warnings in one line, texts from elsewhere.

If the program that reads the output ends first, later output is dropped and the command goes on: a run trains to its
end, and the exit code is the command's own.
"""

import functools
import io
import os
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ttlightning.errors import UserError
from ttlightning.system.extras import needed_by

_JOINERS: Final = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Part of words in some scripts, and of emoji."""

_PACKAGE: Final = Path(__file__).parents[1]


class _Reader(io.FileIO):
    """A file descriptor that is redirected to the null device once its reader is gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # also for child processes, C code and Python's flush at exit
            os.close(null)
            return memoryview(data).nbytes


def drop_unread_output() -> None:
    """Let writes to ``sys.stdout`` and ``sys.stderr`` succeed after their readers are gone."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):  # closed, or replaced, as by a test
            continue
        stream.flush()
        reader = _Reader(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            reader if stream.write_through else io.BufferedWriter(reader),  # PYTHONUNBUFFERED
            encoding=stream.encoding,
            errors="surrogateescape" if stream.errors == "strict" else stream.errors,  # a file name can be any bytes
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lasting)


@functools.cache
def show_own_warnings_in_one_line() -> None:
    """Show this package's warnings as ``ttlightning: message``; warnings of other packages stay as they are."""
    others = warnings.formatwarning

    def format_warning(message: Any, category: Any, file: str, *rest: Any) -> str:
        ours = Path(file).is_relative_to(_PACKAGE)
        return f"ttlightning: {printable(str(message))}\n" if ours else others(message, category, file, *rest)

    warnings.formatwarning = format_warning


def printable(text: str) -> str:
    """The text in one line, with control characters and those that turn the direction of writing as escapes.

    A name in a file from elsewhere could otherwise move a terminal's cursor, hide lines or change colours.
    """
    parts = (part.strip() for part in text.splitlines())
    return "".join(_escape(c) if c < " " or c > "~" else c for c in " ".join(filter(None, parts)))


def _escape(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf") and character not in _JOINERS
    return character.encode("unicode_escape").decode() if hidden else character


def terminal(stderr: bool = False) -> Console:
    """Where lines and bars go; in a notebook only lines, though its kernel asks for colours: bars need ipywidgets."""
    return Console(stderr=stderr, force_jupyter=False, force_terminal=False if "ipykernel" in sys.modules else None)


def print_whole(table: Table) -> None:
    """Print a table with every number in full on any terminal: a truncated number reads as a different number."""
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    Console(width=max(console.width, wide)).print(table)


def say(text: str) -> None:
    """Print a text, printable: on a terminal in lines that end between words, in a file or pipe in one line."""
    console, text = Console(), printable(text)
    print(wrapped(text, console.width) if console.is_terminal else text, flush=True)


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """The text in lines of at most ``width``; the second and later ones are indented. No word is broken, or lost."""
    return textwrap.fill(
        text, max(width, indent + 20), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def columns(rows: Mapping[str, str], indent: int = 0, width: int = 80) -> list[str]:
    """Lines of two columns, words and what they mean; long meanings take several lines."""
    first = max(map(len, rows)) + 2
    start = " " * (indent + first)
    return [
        " " * indent + f"{word:<{first}}" + wrapped(text, width - len(start), 0).replace("\n", f"\n{start}")
        for word, text in rows.items()
    ]


def run_script(main: Callable[[], None]) -> None:
    """Run ``main`` of a script: a user's mistake is one line and exit code 2, output without a reader is dropped."""
    drop_unread_output()
    try:
        with needed_by(Path(sys.argv[0]).name):
            main()
    except UserError as mistake:
        print(f"{Path(sys.argv[0]).stem}: {mistake}", file=sys.stderr)
        sys.exit(2)
