"""Output that nobody reads any more, ``fit | head -1``, and output that is wider than its terminal.

A program that reads our output may end before we do. What is printed from then on is dropped and the command goes on:
a run trains to its end, and the exit code is the command's own.
"""

import functools
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ttlightning.errors import UserError

_PACKAGE: Final = Path(__file__).parents[1]


class _Reader(io.FileIO):
    """A file descriptor that leads nowhere once nobody reads from it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for child processes and C code as well, and for Python's own ending
            os.close(nowhere)
            return memoryview(data).nbytes


def drop_unread_output() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` outlive their readers."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):  # closed, or somebody else's to read
            continue
        stream.flush()
        buffer = io.BufferedWriter(_Reader(stream.fileno(), "w", closefd=False))
        lasting = io.TextIOWrapper(
            buffer,
            encoding=stream.encoding,
            errors="surrogateescape" if stream.errors == "strict" else stream.errors,  # names of files are bytes
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
        return f"ttlightning: {message}\n" if ours else others(message, category, file, *rest)

    warnings.formatwarning = format_warning


def print_whole(table: Table) -> None:
    """Print a table with every number in full, however narrow the terminal: a number that is cut is another number."""
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    Console(width=max(console.width, wide)).print(table)


def run_script(main: Callable[[], None]) -> None:
    """``main`` of a script; a user's mistake is one line and exit code 2, output that nobody reads is dropped."""
    drop_unread_output()
    try:
        main()
    except UserError as mistake:
        print(f"{Path(sys.argv[0]).stem}: {mistake}", file=sys.stderr)
        sys.exit(2)
