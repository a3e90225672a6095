"""Studies: many runs of `fit`, side by side on the cores or GPUs there are, each made once.

A run is known by its experiment's name, its seed and its configuration. One that has a result is not made again, one
that was begun goes on where it stopped, and two processes never make the same one.
"""

import collections
import contextlib
import fcntl
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
from ttlightning.comparison.statistics import estimate
from ttlightning.errors import UserError, exit_code
from ttlightning.runs.files import read_json
from ttlightning.runs.run import check_experiment_name, lock, lock_run, runs_root
from ttlightning.runs.trust import (
    ForeignConfig,
    check_foreign,
    config_text,
    names_to_trust,
    option_for,
    read_mapping,
    take_trusted,
    trusting,
)
from ttlightning.system import signals
from ttlightning.training.quiet import quieten_libraries

INCIDENTAL: Final = ("ckpt_path", "wandb", "figures", "seed_everything")
"""Entries of a configuration that are compared otherwise, or that say nothing of a result."""

_READING: Final = threading.Lock()
"""jsonargparse's parser serves one thread at a time."""

_THREADS: Final[dict[Path, threading.Lock]] = collections.defaultdict(threading.Lock)
"""For each file of ``_alone``, which of this process's threads is inside."""


class Job(NamedTuple):
    """A run that a study needs."""

    experiment: str
    words: tuple[str, ...]
    """configs and options of ``fit``"""
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment}, seed {self.seed}"


class Outcome(NamedTuple):
    """What became of it."""

    job: Job
    run: Path | None
    """its directory, if it has a result"""
    fault: str = ""
    """the last line that it said, if it has none"""

    def result(self) -> dict[str, Any]:
        return read_json(self.run / "result.json")


def make_runs(jobs: Sequence[Job], side_by_side: int | None = None) -> list[Outcome]:
    """Make what is not there yet, ``side_by_side`` at a time, and say on stderr how it goes; the outcomes in order.

    By default as many as there are GPUs, else cores. With GPUs each run has one for itself; on a CPU the runs share
    the cores equally. Ctrl-C, SIGTERM and SIGUSR1 stop the runs with a checkpoint each and end the program.

    Raises:
        UserError: before anything runs, where an option is none of ``fit``.
    """
    configurations = {job[:2]: None for job in jobs}
    for experiment, words in configurations:
        check_experiment_name(experiment)
        configurations[experiment, words] = configuration(("--experiment", experiment, *words))
    gpus = _gpus() if any(c["trainer"]["accelerator"] != "cpu" for c in configurations.values()) else []
    if side_by_side is None:
        side_by_side = min(len(jobs), len(gpus) or _cores())
    if side_by_side < 1 or (gpus and side_by_side > len(gpus)):
        most = f"from 1 to {len(gpus)}, one for each GPU" if gpus else "at least 1"
        raise UserError(f"--jobs is {side_by_side}, it must be {most}")
    crew = _Crew(side_by_side, gpus)
    with crew.listening(), ThreadPoolExecutor(side_by_side) as pool:
        outcomes = list(pool.map(lambda job: crew.make(job, configurations[job[:2]], len(jobs)), jobs))
    if crew.stopped is not None:
        print(f"stopped by {crew.stopped.name}; the same command goes on", file=sys.stderr)
        sys.exit(exit_code(crew.stopped))
    return outcomes


def require(outcomes: Sequence[Outcome]) -> list[Path]:
    """The run directories, where every job has a result; else the program ends with the faults and exit code 1."""
    if faults := faults_of(outcomes):
        sys.exit(faults)
    return [outcome.run for outcome in outcomes]


def faults_of(outcomes: Sequence[Outcome]) -> str | None:
    """A line for each job that has no result; None where there is none."""
    return "\n".join(f"{outcome.job}: {outcome.fault}" for outcome in outcomes if outcome.run is None) or None


def configuration(words: Sequence[str]) -> dict[str, Any]:
    """What ``config.yaml`` of ``fit`` with these words would hold; ``UserError`` where fit would not take them."""
    words, names = take_trusted(words)
    with _READING, trusting(names):
        reader, complete = _reader(), complete_arguments(["fit", *words])
        check_foreign(reader.parser, complete)
        options = reader.parser.parse_args([str(word) for word in complete]).fit
        return yaml.safe_load(reader._dump(options))


def check_config(text: str, source: Path) -> None:
    """Raise ``UserError`` where the configuration of a run names what is neither listed nor trusted."""
    with _READING:
        check_foreign(_reader().parser, ["fit", ForeignConfig(text, source)])


def trust_again(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The option with which ``fit --ckpt_path`` takes up a run of this configuration, which is the user's own."""
    with _READING:
        return tuple(option_for(names_to_trust(_reader().parser, "fit", yaml.safe_dump(dict(config)))).split())


def find_run(experiment: str, seed: int, config: Mapping[str, Any]) -> Path | None:
    """The run of this name, seed and configuration: the newest that has a result, else the newest."""
    found = []
    for file in (runs_root() / experiment).glob("*/config.yaml"):
        if not file.parent.name.isdigit():
            continue
        try:
            theirs = read_mapping(config_text(file), file)
        except UserError:  # whatever it is, not this configuration
            continue
        if theirs.get("seed_everything") == seed and essence(theirs) == essence(config):
            found.append(((file.parent / "result.json").is_file(), int(file.parent.name), file.parent))
    return max(found)[2] if found else None


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration makes it another study's: without seeds, and without what changes no result."""
    kept = {name: value for name, value in config.items() if name not in INCIDENTAL}
    for part in ("data", "model", "rank_check"):
        if isinstance(kept.get(part), dict):
            kept[part] = {name: value for name, value in kept[part].items() if name != "seed"}
    return kept


def percent(values: Sequence[float]) -> str:
    """``98.02 ± 0.26``: mean and interval of fractions, in percent."""
    found = estimate(values)
    return f"{100 * found.mean:.2f}" + (f" ± {100 * found.interval:.2f}" if found.interval is not None else "")


class _Crew:
    """So many workers, each with the part of the machine that is its own."""

    def __init__(self, size: int, gpus: Sequence[str]) -> None:
        threads = {"OMP_NUM_THREADS": str(max(1, _cores() // size))} if "OMP_NUM_THREADS" not in os.environ else {}
        self._places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for place in range(size):
            self._places.put(threads | ({"CUDA_VISIBLE_DEVICES": gpus[place]} if gpus else {}))
        self._running: set[subprocess.Popen[str]] = set()
        self._guard = threading.Lock()
        self._done = 0
        self.stopped: signal.Signals | None = None

    def make(self, job: Job, config: Mapping[str, Any], of: int) -> Outcome:
        """One job to its end, unless it is there."""
        with _alone(runs_root() / f".{job.experiment}-{job.seed}.lock"):
            run, started = find_run(job.experiment, job.seed, config), time.perf_counter()
            while run is not None and not (run / "result.json").is_file() and not self.stopped and _is_written(run):
                time.sleep(1)  # by a process that somebody else has started, or that has outlived its study
            if run is None or not (run / "result.json").is_file():
                again = ("--ckpt_path", str(run), *trust_again(config)) if run else ()
                words = again or ("--experiment", job.experiment, *job.words)
                code, said = self._start(words if run else (*words, f"--seed_everything={job.seed}"))
                if code:
                    return self._report(job, Outcome(job, None, said or f"exit code {code}"), of)
                run = find_run(job.experiment, job.seed, config)
            seconds = time.perf_counter() - started
            return self._report(job, Outcome(job, run), of, f"done, {seconds:.0f} s" if seconds > 1 else "there")

    def _start(self, words: Sequence[str]) -> tuple[int, str]:
        """Exit code and last line of ``fit``; Ctrl-C reaches it through ``listening``."""
        place = self._places.get()
        try:
            with self._guard:
                if self.stopped is not None:
                    return exit_code(self.stopped), "not begun"
                process = start_fit(words, place)
                self._running.add(process)
            if self.stopped is not None:  # meanwhile
                process.send_signal(self.stopped)
            said = process.communicate()[1]
            with self._guard:
                self._running.discard(process)
        finally:
            self._places.put(place)
        return process.returncode, next((line for line in reversed(said.splitlines()) if line.strip()), "")

    def _report(self, job: Job, outcome: Outcome, of: int, how: str = "") -> Outcome:
        with self._guard:
            self._done += 1
            if self.stopped is None:
                print(f"{job}: {how or outcome.fault} ({self._done} of {of})", file=sys.stderr, flush=True)
        return outcome

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, signals go on to all runs, and no other one is begun."""
        with signals.given_to(self._stop):
            yield

    def _stop(self, number: int) -> None:
        self.stopped = signal.Signals(number)
        for process in tuple(self._running):
            process.send_signal(number)


def start_fit(words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """``python -m ttlightning fit`` in a session of its own, where the terminal's Ctrl-C does not reach it twice."""
    return subprocess.Popen(
        [sys.executable, "-m", "ttlightning", "fit", *words], text=True,
        env=os.environ | environment | signals.followed(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Inside, no other thread or process is inside for this file; it is there for as long.

    Where the file system has no locks, ``runs.lock`` warns, and only threads of this process are kept out.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _THREADS[file]:
        while True:
            claim = file.open("w")
            lock(claim, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_ino == os.fstat(claim.fileno()).st_ino:
                    break
            claim.close()  # the one before has taken the file away
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            claim.close()


def _is_written(run: Path) -> bool:
    """Whether a process is at work in this run directory."""
    try:
        lock_run(run).close()
    except UserError:
        return True
    return False


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
def _reader() -> _Reader:
    quieten_libraries()
    return _Reader(["fit"])
