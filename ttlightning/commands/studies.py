"""Studies: many runs of `fit`, side by side on the available cores or GPUs, each made once.

The path of a run follows from its experiment's name, its seed and its configuration. A finished run is not made again,
a run that was begun goes on where it stopped, and two processes never make the same run.
"""

import collections
import contextlib
import functools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import yaml

from ttlightning.commands.arguments import complete_arguments
from ttlightning.commands.cli import CLI
from ttlightning.commands.fit_process import fault_of, start_fit
from ttlightning.commands.watching import Watch
from ttlightning.comparison.statistics import estimate
from ttlightning.comparison.tables import percent as percent_of
from ttlightning.errors import UserError, exit_code
from ttlightning.runs.identity import run_name
from ttlightning.runs.run import Run, check_experiment_name, runs_root
from ttlightning.runs.trust import check_foreign, take_trusted, trusting
from ttlightning.system import signals
from ttlightning.system.lock import Lock
from ttlightning.training.quiet import quiet_libraries

_READING: Final = threading.Lock()
"""The parser serves one thread at a time: while it reads a config, the working directory is the config's folder."""

_THREADS: Final[dict[Path, threading.Lock]] = collections.defaultdict(threading.Lock)
"""A lock between the threads of this process for each file of ``_alone``."""

NOT_BEGUN: Final = "not begun"


class Job(NamedTuple):
    """A run that a study needs."""

    experiment: str
    words: tuple[str, ...]
    """configs and options of ``fit``"""
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment}, seed {self.seed}"


class Outcome(NamedTuple):
    """The outcome of a job."""

    job: Job
    run: Run | None
    """the run, if it has a result"""
    fault: str = ""
    """the last line of its output, if it has none"""


def make_runs(jobs: Sequence[Job], side_by_side: int | None = None) -> list[Outcome]:
    """Make the missing runs, ``side_by_side`` at a time, and report progress on stderr; the outcomes in order.

    The default is one run for each GPU, else for each core. With GPUs each run has one for itself; on a CPU the runs
    share the cores equally. Ctrl-C, SIGTERM and SIGUSR1 stop each run with a checkpoint and end the program.

    Raises:
        UserError: before anything runs, where ``fit`` does not know an option.
    """
    if not jobs:
        return []
    configurations = configurations_of(jobs)
    gpus = _gpus() if any(c["trainer"]["accelerator"] != "cpu" for c in configurations.values()) else []
    if side_by_side is None:
        side_by_side = min(len(jobs), len(gpus) or _cores())
    if side_by_side < 1 or (gpus and side_by_side > len(gpus)):
        most = f"from 1 to {len(gpus)}, one for each GPU" if gpus else "at least 1"
        raise UserError(f"--jobs is {side_by_side}, it must be {most}")
    crew = _Crew(side_by_side, gpus, len(jobs))
    with signals.given_to(crew.stop), crew.watch.shown(), ThreadPoolExecutor(side_by_side) as pool:
        outcomes = list(pool.map(lambda job: crew.make(job, configurations[job[:2]]), jobs))
    if crew.stopped is not None:
        done = sum(outcome.run is not None for outcome in outcomes)
        print(f"stopped by {crew.stopped.name}: {done} of {len(jobs)} have a result; the same command goes on",
              file=sys.stderr)  # fmt: skip
        sys.exit(exit_code(crew.stopped))
    return outcomes


def configurations_of(jobs: Sequence[Job]) -> dict[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """The configuration of every experiment and options; ``UserError`` where ``fit`` would refuse one."""
    configurations = {}
    for experiment, words in dict.fromkeys(job[:2] for job in jobs):
        check_experiment_name(experiment)
        configurations[experiment, words] = configuration(("--experiment", experiment, *words))
    return configurations


def run_of(job: Job, config: Mapping[str, Any]) -> Run:
    """The run of a job with this configuration."""
    return Run(runs_root() / job.experiment / run_name(config, job.seed))


def require(outcomes: Sequence[Outcome]) -> list[Run]:
    """The runs, if every job has a result; else the program ends with the faults and exit code 1."""
    if faults := faults_of(outcomes):
        sys.exit(faults)
    return [outcome.run for outcome in outcomes]


def faults_of(outcomes: Sequence[Outcome]) -> str | None:
    """A line for each job without a result; None where all have one."""
    return "\n".join(f"{outcome.job}: {outcome.fault}" for outcome in outcomes if outcome.run is None) or None


def configuration(words: Sequence[str]) -> dict[str, Any]:
    """``config.yaml`` of ``fit`` with these arguments, parsed; ``UserError`` where fit would refuse them.

    ``("--run", path)`` gives the configuration of a run as this version completes it.
    """
    words, names = take_trusted(words)
    with _READING, trusting(names):
        words, reader = complete_arguments(["fit", *words]), command_line()
        check_foreign(reader.parser, words)
        return yaml.safe_load(reader._dump(reader.parser.parse_args([str(word) for word in words]).fit))


def percent(values: Sequence[float]) -> str:
    """``98.02 ± 0.26``: mean and interval of fractions, in percent."""
    return percent_of(estimate(values))


class _Crew:
    """Workers, each with its own share of the machine."""

    def __init__(self, size: int, gpus: Sequence[str], jobs: int) -> None:
        threads = {"OMP_NUM_THREADS": str(max(1, _cores() // size))} if "OMP_NUM_THREADS" not in os.environ else {}
        self._shares: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        """environment variables of a worker that has no run"""
        for number in range(size):
            self._shares.put(threads | ({"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}))
        self._running: set[subprocess.Popen[str]] = set()
        self._guard = threading.Lock()
        self.watch = Watch(jobs)
        self.stopped: signal.Signals | None = None

    def make(self, job: Job, config: Mapping[str, Any]) -> Outcome:
        """Make one run, unless it is finished, and report it."""
        run, fault = run_of(job, config), ""
        with _alone(runs_root() / f".{job.experiment}-{run.path.name}.lock"):
            started = time.perf_counter()
            while run.state != "finished" and not self.stopped and run.is_being_written():
                time.sleep(1)  # by a process that somebody else has started, or that has outlived its study
            if run.state != "finished" and not self.stopped:
                self.watch.begin(run, str(job), config["trainer"]["max_epochs"])
                fault = self._fit(words_of_run(job, run))
        if self.stopped is None:
            self.watch.end(run, str(job), fault, time.perf_counter() - started)
        elif run.state != "finished":
            fault = fault or NOT_BEGUN
        return Outcome(job, None if fault else run, fault)

    def _fit(self, words: Sequence[str]) -> str:
        """Run ``fit``; the last line of its output where it fails."""
        share = self._shares.get()
        try:
            with self._guard:
                if self.stopped is not None:
                    return NOT_BEGUN
                process = start_fit(words, share)
                self._running.add(process)
            if self.stopped is not None:  # meanwhile
                process.send_signal(self.stopped)
            errors = process.communicate()[1]
            with self._guard:
                self._running.discard(process)
        finally:
            self._shares.put(share)
        return fault_of(process.returncode, errors)

    def stop(self, number: int) -> None:
        """Pass a signal on to all runs, and begin no other one."""
        self.stopped = signal.Signals(number)
        for process in tuple(self._running):
            process.send_signal(number)


def words_of_run(job: Job, run: Run) -> tuple[str, ...]:
    """Options of ``fit`` that make or go on with the run of a job."""
    return ("--run", str(run), "--experiment", job.experiment, *job.words, f"--seed_everything={job.seed}")


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Inside, no other thread and no other process is inside for this file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(file)
    with _THREADS[file]:
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = chosen.split(",") if chosen else map(str, range(torch.cuda.device_count()))
    return [name.strip() for name in names][: torch.cuda.device_count()]


class _Reader(CLI):
    """The command line up to where it would make objects."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@functools.cache
def command_line() -> _Reader:
    """The command line of the verbs with a trainer, for its parser; made once."""
    with quiet_libraries():
        return _Reader(["fit"])
