"""Many fits: made in processes that stay, because Python and its imports take longer to start than a small network to
train; found again by experiment and seed, so that a study that was stopped goes on.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from ttlightning.runs import read_json, runs_root

Item = TypeVar("Item")


class FitFailed(Exception):
    """A fit of a study ended with a mistake or a fault; the message is its last line and the arguments."""


def newest_result(experiment: str, seed: int | None = None) -> Path | None:
    """The newest finished run of this experiment, and of this seed where one is named."""
    found = sorted((runs_root() / experiment).glob("*/result.json"), key=lambda file: int(file.parent.name))
    runs = (file.parent for file in reversed(found) if seed is None or read_json(file)["seed"] == seed)
    return next(runs, None)


def fit_here(arguments: Sequence[str]) -> None:
    """``python -m ttlightning`` with these arguments, in this process and without its words.

    Raises:
        FitFailed: where its exit code is not 0.
    """
    from ttlightning.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(arguments))
        except SystemExit as stop:
            if stop.code:
                last = said.getvalue().strip().splitlines()[-1:] or [f"exit code {stop.code}"]
                raise FitFailed(f"{last[0]} (ttlightning {' '.join(arguments)})") from stop


def side_by_side(work: Callable[[Item], object], items: Sequence[Item], jobs: int) -> None:
    """``work`` of every item, in ``jobs`` processes; those that fail are said at the end, the others are made.

    Raises:
        SystemExit: where one failed, with what each said.
    """
    failed = []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _limit_threads, (threads,)) as pool:
        futures = {pool.submit(work, item): item for item in items}
        for number, future in enumerate(as_completed(futures), start=1):
            fault = future.exception()
            if fault is not None:
                failed.append(str(fault))
            print(f"{number} of {len(items)}{'' if fault is None else ', FAILED'}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit("\n".join(failed))


def _limit_threads(threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
