"""Lightning's loggers: metrics.csv, which can go on where a stopped run left it, and W&B, which may die on the way."""

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from ttlightning.runs.files import write_whole


def is_lost(fault: Exception) -> bool:
    """Whether W&B says that its service does not answer: a process of its own, which may be killed on its own."""
    return isinstance(fault, ConnectionError | EOFError) or type(fault).__module__.partition(".")[0] == "wandb"


class Record(WandbLogger):
    """W&B's record of a run. Nothing hangs on it: where its service dies, one line says so and the run goes on."""

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        self._is_lost = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.attempt(lambda: super(Record, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        self.attempt(lambda: super(Record, self).log_hyperparams(params))

    def attempt(self, action: Callable[[], object]) -> None:
        """Do what needs the service, as long as there is one."""
        if self._is_lost:
            return
        try:
            action()
        except Exception as fault:
            if not is_lost(fault):
                raise
            self._is_lost = True
            print(
                f"ttlightning: W&B's service is gone ({fault}), its record of the run stops here; the run directory "
                "has everything",
                file=sys.stderr,
            )
            with contextlib.suppress(ConnectionError):  # or W&B would try again at the very end, with a traceback
                wandb.teardown()


class MetricsTable(CSVLogger):
    """The table of one run directory, with every value on the disk as soon as it is logged."""

    def __init__(self, run: Path) -> None:
        super().__init__(run.parent.parent, run.parent.name, run.name, flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> "_Writer":
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    @property
    def rows(self) -> int:
        """How many rows have been written."""
        return self.experiment.rows

    @rank_zero_only
    def keep(self, rows: int) -> list[tuple[dict[str, float], int]]:
        """Forget what comes after the first ``rows`` rows: a resumed run writes it again. Those rows: values, step."""
        kept = self.experiment.keep(rows)
        named = [{name: float(value) for name, value in row.items() if value} for row in kept]
        return [(row, int(row.pop("step"))) for row in named]


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows = 0

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics_dict, step)
        self.rows += 1

    def keep(self, rows: int) -> list[dict[str, str]]:
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return []
        with file.open(newline="") as table:
            kept = list(csv.DictReader(table))[:rows]
        self.rows = len(kept)
        # A column that only forgotten rows had comes back with them.
        self.metrics_keys = sorted({name for row in kept for name, value in row.items() if value})
        if kept:
            self._write(self.metrics_keys, kept)
        else:
            file.unlink()
        return kept

    def _check_log_dir_exists(self) -> None:
        """Nothing: the table that is there goes on."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with Path(self.metrics_file_path).open(newline="") as table:
            self._write(fieldnames, list(csv.DictReader(table)))

    def _write(self, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
        """The whole table at once, so that a process that dies here loses no row."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(Path(self.metrics_file_path), text.getvalue().encode())
