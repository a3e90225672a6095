"""The terminal: output without a reader (``fit | head -1``), tables wider than the terminal, warnings in one line.

If the program that reads the output ends first, later output is dropped and the command goes on: a run trains to its
end, and the exit code is the command's own.
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
from ttlightning.system.extras import needed_by

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
        lasting = io.TextIOWrapper(
            io.BufferedWriter(_Reader(stream.fileno(), "w", closefd=False)),
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
        return f"ttlightning: {message}\n" if ours else others(message, category, file, *rest)

    warnings.formatwarning = format_warning


def terminal(stderr: bool = False) -> Console:
    """Where lines and bars go; in a notebook only lines, though its kernel asks for colours: bars need ipywidgets."""
    return Console(stderr=stderr, force_jupyter=False, force_terminal=False if "ipykernel" in sys.modules else None)


def print_whole(table: Table) -> None:
    """Print a table with every number in full on any terminal: a truncated number reads as a different number."""
    console = Console()
    wide = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    Console(width=max(console.width, wide)).print(table)


def run_script(main: Callable[[], None]) -> None:
    """Run ``main`` of a script: a user's mistake is one line and exit code 2, output without a reader is dropped."""
    drop_unread_output()
    try:
        with needed_by(Path(sys.argv[0]).name):
            main()
    except UserError as mistake:
        print(f"{Path(sys.argv[0]).stem}: {mistake}", file=sys.stderr)
        sys.exit(2)
