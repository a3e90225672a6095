"""A run on the disk: names of its files, its state and its contents. No other module knows them.

<root>/<experiment>/<name>/
    config.yaml  provenance.json  metrics.csv  result.json  checkpoints/  wandb/  rank/  figures/
"""

import csv
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ttlightning.errors import UserError
from ttlightning.runs.files import read_json
from ttlightning.runs.releases import find_release, released_names
from ttlightning.runs.trust import config_text, read_mapping
from ttlightning.system.lock import Lock
from ttlightning.system.paths import command, expanded

if TYPE_CHECKING:
    from ttlightning.networks.network import Network

LOCK_FILE: Final = ".lock"


class Run:
    """A run directory: names of its files, its state, its contents and its lock.

    Args:
        path: the directory; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.provenance_file = path / "provenance.json"
        self.metrics_file = path / "metrics.csv"
        self.result_file = path / "result.json"
        self.rerun_file = path / "rerun.json"
        self.checkpoint = path / "checkpoints" / "last.ckpt"
        self.checks_file = path / "rank" / "checks.jsonl"
        self.certificate_file = path / "rank" / "certificate.json"
        self.figures = path / "figures"
        self.lock = Lock(path / LOCK_FILE)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, root: Path, experiment: str) -> "Run":
        """Make the directory ``root/experiment/n`` with the first n above the existing numbers.

        Making the directory claims the number, so two runs that start at one moment get two directories.

        Raises:
            UserError: where ``root`` cannot be written.
        """
        parent = root / experiment
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=-1) + 1
            while True:
                try:
                    (parent / str(number)).mkdir()
                    return cls(parent / str(number))
                except FileExistsError:
                    number += 1
        except OSError as fault:
            raise UserError(
                f"cannot make a run directory in {parent}: {fault.strerror}; "
                "set $TTLIGHTNING_RUNS to a folder you can write"
            ) from fault

    @classmethod
    def open(cls, path: Path | str, finished: bool = False) -> "Run":
        """The run at ``path``.

        Raises:
            UserError: where there is none, or ``finished`` is asked for and the run has no result.
        """
        run = cls(expanded(path))
        if not run.config_file.is_file():
            raise UserError(f"{path} is not a run directory: it has no config.yaml; name one such as runs/eq/0")
        if finished and not run.result_file.is_file():
            goes_on = command("fit", "--ckpt_path", path)
            raise UserError(f"{path} is not finished, it has no result.json; it goes on with: {goes_on}")
        return run

    @classmethod
    def of_checkpoint(cls, source: Path) -> "Run | None":
        """The run that ``source``, its directory or its last checkpoint, belongs to."""
        run = cls(source if source.is_dir() else source.parent.parent)
        return run if run.config_file.is_file() and source in (run.path, run.checkpoint) else None

    @property
    def state(self) -> Literal["new", "begun", "finished"]:
        """``new`` (no directory, or an empty one), ``begun`` (with a configuration) or ``finished`` (with a result).

        Raises:
            UserError: where the path holds something else.
        """
        if self.result_file.is_file():
            return "finished"
        if self.config_file.is_file():
            return "begun"
        if self.path.is_dir():
            leftover = (LOCK_FILE, f"{LOCK_FILE}.claim", f"{self.config_file.name}.partial")  # of a killed process
            if all(file.name.startswith(leftover) for file in self.path.iterdir()):
                return "new"
            raise UserError(f"{self.path} holds files but no run: name a folder that is empty or does not exist")
        if self.path.exists():
            raise UserError(f"{self.path} is a file: name a folder that is empty or does not exist")
        return "new"

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.yaml``, the complete configuration."""
        return read_mapping(config_text(self.config_file), self.config_file)

    @property
    def provenance(self) -> dict[str, Any]:
        """``provenance.json``: code, packages, machine and data of the run."""
        return read_json(self.provenance_file)

    @property
    def is_compressed(self) -> bool:
        """Whether ``compress`` made the run, so that no training goes on in it."""
        return self.provenance_file.is_file() and "compressed" in self.provenance

    @property
    def result(self) -> dict[str, Any]:
        """``result.json`` of a finished run."""
        return read_json(self.result_file)

    @property
    def certificate(self) -> dict[str, Any]:
        """``rank/certificate.json``, for the weights of the last checkpoint."""
        return read_json(self.certificate_file)

    def network(self, trust: Sequence[str] = ()) -> "Network":
        """The trained network of the last checkpoint: see ``load``."""
        return load(self.path, trust)

    @property
    def metrics(self) -> list[dict[str, str]]:
        """Rows of ``metrics.csv``: column to text, empty where nothing was logged."""
        try:
            with self.metrics_file.open(newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, csv.Error, UnicodeDecodeError) as fault:
            raise UserError(f"{self.metrics_file} cannot be read: {fault}") from fault

    def logged(self, names: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        """Epoch and value of every row of ``metrics.csv`` in which a value of this name was logged, as text.

        Raises:
            UserError: where the table cannot be read, or has no column of epochs.
        """
        try:
            with self.metrics_file.open(newline="") as file:
                rows = csv.reader(file)
                titles = next(rows, [])
                columns = [(name, titles.index(name)) for name in names if name in titles]
                if columns and "epoch" not in titles:
                    raise UserError(f"{self.metrics_file} cannot be read: there is no 'epoch' in its first line")
                epoch = titles.index("epoch") if columns else 0
                found: dict[str, list[tuple[str, str]]] = {name: [] for name, _ in columns}
                for row in rows:
                    for name, column in columns:
                        if column < len(row) and row[column]:
                            found[name].append((row[epoch], row[column]))
                return found
        except (OSError, csv.Error, UnicodeDecodeError) as fault:
            raise UserError(f"{self.metrics_file} cannot be read: {fault}") from fault

    def new_certificate_file(self, kind: str, size: int | None, length: int | None = None) -> Path:
        """Default output of ``certify``, by the staircase or of a kind with a size: beside the rank checks.

        ``length``: sites of the sequences that it speaks of, if it was asked for.
        """
        parts = [
            "certificate",
            *([] if size is None else [kind, size]),
            *([] if length is None else ["length", length]),
        ]
        name = self.certificate_file.with_stem("-".join(map(str, parts))).name
        return (self.certificate_file.parent if self.certificate_file.parent.is_dir() else self.path) / name

    def new_export(self, kind: str) -> Path:
        """Default output of ``export``."""
        return self.path / f"network.{kind}"

    def claim(self) -> None:
        """Lock the run for this process, until ``lock.release()`` or the end of the process.

        Raises:
            UserError: where another process has it.
        """
        if not self.lock.acquire(wait=False):
            process, left = self.lock.owner()
            raise UserError(
                f"{self.path} is being written by {process}; wait for it, or stop it first; if it has ended, remove "
                f"{left}"
            )

    def is_being_written(self) -> bool:
        """Whether a process holds the lock."""
        probe = Lock(self.path / LOCK_FILE)
        is_held = self.path.is_dir() and not probe.acquire(wait=False)
        probe.release()
        return is_held


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run, or what is left of one."""
    run = Run(folder)
    return run.config_file.is_file() or run.result_file.is_file()


def runs_of(root: Path, experiment: str | None = None) -> list[Run]:
    """``existing_runs``; ``UserError`` where there is none."""
    if runs := existing_runs(root, experiment):
        return runs
    raise UserError(f"there is no run in {root / (experiment or '')} to go on with; name one such as runs/eq/0")


def existing_runs(root: Path, experiment: str | None = None) -> list[Run]:
    """Begun and finished runs of ``experiment``, else of all experiments; the newest first.

    The time of ``config.yaml``, written once, says when a run began; of equal times, its number.
    """
    names = root.glob(f"{experiment or '*'}/*/{Run(root).config_file.name}")
    configs = [(c.stat().st_mtime_ns, int(c.parent.name) if c.parent.name.isdigit() else -1, c) for c in names]
    return [Run(config.parent) for _, _, config in sorted(configs, reverse=True)]


def runs_root() -> Path:
    """``$TTLIGHTNING_RUNS``, else ``runs`` in the working directory; ``UserError`` as by ``check_utf8``."""
    return check_utf8(expanded(os.environ.get("TTLIGHTNING_RUNS") or "runs"), "set $TTLIGHTNING_RUNS")


def check_utf8(path: Path, way_out: str) -> Path:
    """``path``; ``UserError`` where it is not UTF-8, which W&B's files and the command line's options must be."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as fault:
        raise UserError(f"runs would lie in {os.fsencode(path.absolute())!r}, which is not UTF-8; {way_out}") from fault
    return path


def check_experiment_name(name: str) -> str:
    """``name`` if it can be a folder's name; ``UserError`` if not."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(f"experiment is {name!r}, it must be letters, digits and . _ + - (it names a folder)")
    return name


def checkpoint_file(path: Path, begun: bool = False) -> Path:
    """``path`` itself, the last checkpoint of the run directory ``path``, or the released weights of this name.

    ``UserError`` where there is none.

    With ``begun``, a run that has no checkpoint yet gives its directory: ``fit`` starts it again.
    """
    path = expanded(path)
    run = Run(path)
    file = run.checkpoint if path.is_dir() else path
    if not file.is_file():
        if begun and run.config_file.is_file():
            return path
        if not path.exists() and (released := find_release(path.as_posix())) is not None:
            return released
        names = "".join(f", {name}" for name in released_names())
        way_out = f"or released weights{names.replace(',', ':', 1)}" if names else ""
        raise UserError(
            f"no checkpoint at {file}; name a .ckpt file or a run directory such as runs/eq/0 {way_out}".strip()
        )
    return file


def place_beside(source: Path, file: Path) -> Run:
    """Where a command writes what it makes of the checkpoint ``file``, which ``source`` names.

    In its run, or beside the file; for released weights, which belong to the package, in the working directory.
    """
    if expanded(source).is_dir():
        return Run(source)
    return Run(file.parent if expanded(source) == file else Path())


def load(path: str | os.PathLike[str], trust: Sequence[str] = ()) -> "Network":
    """The trained network of a run directory or a checkpoint file, in eval mode on the CPU, ready to score images.

        network = ttlightning.load("runs/eq/0")
        probabilities = network.predict(images)

    Args:
        path: a ``Run`` or its directory, whose last checkpoint is read, a ``.ckpt`` file, or the name of released
            weights, such as ``eq`` (``docs/weights.md``).
        trust: classes and modules from outside this package that the configuration in the file may import.

    Raises:
        UserError: no checkpoint, a damaged one, one whose weights do not fit its configuration, or one whose
            configuration names a class that is neither of this package nor in ``trust``.
    """
    from ttlightning.runs.trained_networks import read_network  # torch takes a second to import

    return read_network(checkpoint_file(Path(path)), trust)
