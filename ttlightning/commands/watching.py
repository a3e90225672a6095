"""What the terminal shows of a study: a line for each run that ends; on a terminal, bars for the study and its runs."""

import csv
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ttlightning.runs.run import Run

SECONDS: Final = 1.0
"""Time between two looks at the tables of the running runs."""
TAIL: Final = 4096
"""Bytes at the end of a table that are read for its last epoch."""
UNTIL_THERE: Final = 1.0
"""A run that took fewer seconds was there before."""


class Watch:
    """Reports the runs of a study on stderr.

    Args:
        total: number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._guard = threading.Lock()
        self._bars: Progress | None = None
        self._all: TaskID | None = None
        self._running: dict[Run, TaskID] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, bars are shown where stderr is a terminal."""
        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times
        with Progress(*columns, console=console, transient=True, refresh_per_second=2) as self._bars:
            self._all = self._bars.add_task("runs", total=self.total, completed=self.done)
            over = threading.Event()
            looking = threading.Thread(target=self._look, args=(over,), name="progress of runs", daemon=True)
            looking.start()
            try:
                yield
            finally:
                over.set()
                looking.join()
        self._bars = None

    def begin(self, run: Run, text: str, epochs: int | None) -> None:
        """A run has begun, or goes on; ``epochs`` is None where its number of epochs is not known."""
        with self._guard:
            if self._bars is not None and run not in self._running:
                self._running[run] = self._bars.add_task(text, total=epochs, completed=epochs_of(run))

    def end(self, run: Run, text: str, fault: str, seconds: float) -> None:
        """A run has ended; without ``fault`` it has a result."""
        with self._guard:
            self.done += 1
            self.failed += bool(fault)
            report = fault or (f"done, {seconds:.0f} s" if seconds > UNTIL_THERE else "there")
            line = f"{text}: {report} ({self.done} of {self.total})"
            if self._bars is None:
                print(line, file=sys.stderr, flush=True)
                return
            self._bars.console.print(line, style="red" if fault else None, markup=False, highlight=False)
            if (bar := self._running.pop(run, None)) is not None:
                self._bars.remove_task(bar)
            title = f"runs ({self.failed} failed)" if self.failed else "runs"
            self._bars.update(self._all, completed=self.done, description=title)

    def _look(self, over: threading.Event) -> None:
        while not over.wait(SECONDS):
            with self._guard:
                running = tuple(self._running.items())
            for run, bar in running:
                epochs = epochs_of(run)
                with self._guard:
                    if self._running.get(run) == bar and self._bars is not None:
                        self._bars.update(bar, completed=epochs)


def epochs_of(run: Run) -> int:
    """Complete epochs of a run, by the end of its table of metrics; 0 where it has none yet."""
    try:
        with run.metrics_file.open("rb") as file:
            titles = next(csv.reader([file.readline().decode()]))
            column = titles.index("epoch")
            file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - TAIL))
            rows = csv.reader(file.read().decode(errors="replace").splitlines())
            numbers = [row[column] for row in rows if len(row) == len(titles) and row[column].isdigit()]
    except (FileNotFoundError, StopIteration, ValueError):  # not begun, or its first line is being written
        return 0
    return int(numbers[-1]) if numbers else 0
