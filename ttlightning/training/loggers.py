"""Loggers: metrics.csv, which a resumed run continues, and W&B, whose service can die during the run."""

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ttlightning.runs.files import write_whole
from ttlightning.runs.run import Run


class Record(WandbLogger):
    """W&B's record of a run. If W&B's service, a process of its own, dies, one line says so and the run goes on.

    A trainer has its loggers before the run exists: ``begin`` gives the record its W&B run.
    """

    def __init__(self) -> None:
        Logger.__init__(self)
        self._is_lost = False

    def begin(self, wandb_run: Any) -> None:
        """Record into this W&B run; None on all processes but the first."""
        WandbLogger.__init__(self, experiment=wandb_run)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.attempt(lambda: super(Record, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        self.attempt(lambda: super(Record, self).log_hyperparams(params))

    def attempt(self, action: Callable[[], object]) -> None:
        """Call ``action`` unless the service is lost."""
        if self._is_lost:
            return
        try:
            action()
        except Exception as fault:
            from_wandb = type(fault).__module__.partition(".")[0] == "wandb"
            if not from_wandb and not isinstance(fault, ConnectionError | EOFError):
                raise
            self._is_lost = True
            print(
                f"ttlightning: W&B's service is gone ({fault}), its record of the run stops here; the run directory "
                "has everything",
                file=sys.stderr,
            )
            with contextlib.suppress(ConnectionError):  # otherwise W&B tries again at exit, with a traceback
                wandb.teardown()


class MetricsTable(Logger):
    """metrics.csv of a run: every call of ``log_metrics`` writes a row to the disk.

    Columns are in alphabetical order. A row with a new column rewrites the file atomically. A trainer has its loggers
    before the run exists: ``begin`` gives the table its file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        self.columns: list[str] = []
        self.rows = 0
        """Number of rows in the file."""

    def begin(self, run: Run) -> None:
        """Write into this run's file."""
        self.run, self.file = run, run.metrics_file

    @property
    def save_dir(self) -> str | None:
        return self.run and str(self.run.path.parent.parent)

    @property
    def name(self) -> str | None:
        return self.run and self.run.path.parent.name

    @property
    def version(self) -> str | None:
        return self.run and self.run.path.name

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        row["step"] = self.rows if step is None else step
        if row.keys() - set(self.columns):
            self._rewrite([*self._read(), row])
        else:
            with self.file.open("a", newline="") as table:
                table.write(_lines(self.columns, [row]))
        self.rows += 1

    @rank_zero_only
    def keep(self, rows: int) -> list[tuple[dict[str, float], int]]:
        """Delete all but the first ``rows`` rows, and return these as (values, step)."""
        kept = [{name: value for name, value in row.items() if value} for row in self._read()[:rows]]
        self.rows = len(kept)
        if kept:
            self._rewrite(kept)
        else:
            self.columns = []
            self.file.unlink(missing_ok=True)
        named = [{name: float(value) for name, value in row.items()} for row in kept]
        return [(row, int(row.pop("step"))) for row in named]

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.is_file():
            return []
        with self.file.open(newline="") as table:
            return list(csv.DictReader(table))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.columns = sorted({name for row in rows for name in row})
        header = {name: name for name in self.columns}
        write_whole(self.file, _lines(self.columns, [header, *rows]).encode())


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, extrasaction="ignore").writerows(rows)
    return text.getvalue()
