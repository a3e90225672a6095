"""The run directory of a fit: made when data and network are known to be sound, filled as the run goes."""

import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import wandb
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from ttlightning import runs
from ttlightning.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.callbacks.rank_check import RankCheck
from ttlightning.callbacks.run_figures import RunFigures
from ttlightning.callbacks.wandb_run import WandbOptions, define_axes, new_identifier, tags
from ttlightning.checkpoints import CONFIG_KEY, RUN_KEY
from ttlightning.errors import UserError
from ttlightning.loggers import MetricsTable
from ttlightning.provenance import differences, provenance, scrubbed
from ttlightning.trust import option_for

WANDB_PATIENCE = 30.0
"""Seconds that W&B has to answer in before a run starts; $WANDB_INIT_TIMEOUT says otherwise."""


class RunDirectory(Callback):
    """Makes ``<root>/<experiment>/<n>``, attaches the CSV and W&B loggers, and writes config, provenance and result.

    It does so in ``setup``, after the data have been read: a mistake in the configuration leaves nothing behind. Where
    ``going_on`` names a run directory, that run goes on: its tables keep what the checkpoint knows of, its W&B run is
    continued under its identifier.
    """

    def __init__(
        self, experiment: str, config: str, wandb: WandbOptions, mode: str, going_on: Path | None = None
    ) -> None:
        self.experiment, self.config, self.wandb, self.mode = experiment, config, wandb, mode
        self.going_on, self.path = going_on, going_on
        self.trusted: list[str] = []
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._started: float | None = None
        self._table: MetricsTable | None = None
        self._resumes = False
        self._wandb_run: Any = None
        self._wandb_logger: WandbLogger | None = None
        self._lock: IO[bytes] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        begun = self._begin(trainer, pl_module) if trainer.is_global_zero else None
        self.path, mistake = trainer.strategy.broadcast(begun)
        if mistake is not None:  # on every process, so that none waits for the others
            raise UserError(mistake)
        self._table = MetricsTable(self.path)
        self._resumes = (self.path / "checkpoints" / "last.ckpt").exists()
        if not self._resumes and trainer.is_global_zero:  # a run that was stopped before its first checkpoint
            self._table.keep(0)
            (self.path / "rank" / "checks.jsonl").unlink(missing_ok=True)
        self._wandb_logger = WandbLogger(experiment=self._wandb_run)
        trainer.loggers = [*trainer.loggers, self._table, self._wandb_logger]
        for callback in trainer.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.path / "checkpoints")
            if isinstance(callback, LastCheckpoint):
                callback.file = self.path / "checkpoints" / "last.ckpt"
            if isinstance(callback, RankCheck):
                callback.directory = self.path / "rank"
            if isinstance(callback, RunFigures):
                callback.directory = self.path / "figures"
                callback.wandb_run = self._wandb_run if self.mode != "disabled" else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter() - self.seconds

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._started = self._elapsed(), None
        self._collect(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what is kept and how the run goes on, whatever ended it."""
        if self._table is None or not trainer.is_global_zero:
            return
        self._lock.close()
        kept = "its last checkpoint" if (self.path / "checkpoints" / "last.ckpt").exists() else "no checkpoint yet"
        exception.add_note(
            f"{self.path} has {kept}; it goes on with: python -m ttlightning fit --ckpt_path {self.path}"
            f"{option_for(self.trusted)}"
        )
        if isinstance(exception, KeyboardInterrupt):  # which Lightning turns into an exit without a word
            print(f"ttlightning: stopped at once; {exception.__notes__[-1]}", file=sys.stderr)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The configuration; and what a run that goes on must know: rows of the table, values and seconds so far."""
        self._collect(trainer)
        checkpoint[CONFIG_KEY] = self.config
        rows = self._table.rows if self._table is not None and trainer.is_global_zero else 0
        checkpoint[RUN_KEY] = {"rows": rows, "metrics": dict(self.metrics), "seconds": self._elapsed()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._resumes and RUN_KEY in checkpoint:
            state = checkpoint[RUN_KEY]
            self.metrics, self.seconds = dict(state["metrics"]), state["seconds"]
            kept = self._table.keep(state["rows"])
            if self.mode == "offline" and trainer.is_global_zero:
                self._repeat(kept)

    def write_result(self, trainer: Trainer, pl_module: LightningModule, seed: int) -> dict[str, Any]:
        """Write and return ``result.json``: what compare, rerun and the tables read."""
        check = next((c for c in trainer.callbacks if isinstance(c, RankCheck)), None)
        result = {
            "experiment": self.experiment,
            "dataset": _dataset(trainer)["name"],
            "seed": seed,
            "epochs": trainer.current_epoch,
            "metrics": self.metrics,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "weights_sha256": runs.weights_sha256(pl_module.state_dict()),
            "seconds": self.seconds,
            "rank_check_seconds": check.seconds if check else 0.0,
            "rank": check.latest if check else {},
        }
        if self.path is not None and trainer.is_global_zero:
            runs.write_json(self.path / "result.json", result)
            self._summarize(result)
            self._lock.close()
        return result

    def _summarize(self, result: dict[str, Any]) -> None:
        """What W&B's table of runs shows beside the accuracies; exact integers as text."""
        rank = result["rank"]
        found = {name: result[name] for name in ("weights_sha256", "parameters", "seconds")}
        if "statement" in rank:
            found |= {"rank/certified_exact": str(min(rank["certified"])), "rank/statement": rank["statement"]}
        self._wandb_logger.experiment.summary.update(found)

    def _collect(self, trainer: Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}

    def _elapsed(self) -> float:
        """Seconds of training so far, those before the checkpoint that the run went on from among them."""
        return self.seconds if self._started is None else time.perf_counter() - self._started

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Path | None, str | None]:
        """The run's directory, or what the user has to mend; W&B's run open."""
        try:
            path, identifier = self._claim(trainer)
            self._wandb_run = self._open_wandb(path, identifier, tags(trainer, pl_module, self.wandb.tags))
        except UserError as mistake:
            return None, str(mistake)
        return path, None

    def _claim(self, trainer: Trainer) -> tuple[Path, str]:
        """The run's directory, locked, with config and provenance inside, and the identifier of its W&B run."""
        record = provenance(_dataset(trainer), trainer.world_size)
        path = self.going_on or runs.create_run_directory(runs.runs_root(), self.experiment)
        if self.going_on is None:
            (path / "config.yaml").write_text(self.config)
        self._lock = runs.lock_run(path)
        file = path / "provenance.json"
        if file.exists():
            before = runs.read_json(file)
            changed = {d.name: d.now for d in differences(before, record)}
            record = before | {"resumed": [*before.get("resumed", []), {"argv": record["argv"], "changed": changed}]}
        else:
            record |= {"wandb": new_identifier()}
        runs.write_json(file, record)
        return path, record["wandb"]

    def _open_wandb(self, path: Path, identifier: str, tags: list[str]) -> Any:
        """The W&B run, with the complete configuration, filed under the experiment's name and with ``tags``.

        W&B's own record of machine, user, folders and terminal is left out: it names the home folder, and the
        provenance says what of it matters.
        """
        (path / "wandb").mkdir(exist_ok=True)
        settings = {"console": "off", "x_disable_meta": True, "disable_git": True}
        settings["init_timeout"] = float(os.environ.get("WANDB_INIT_TIMEOUT", WANDB_PATIENCE))
        try:
            run = wandb.init(
                dir=str(path),
                id=identifier,
                resume="allow",
                name=f"{self.experiment}-{path.name}",
                group=self.experiment,
                job_type="fit",
                config=yaml.safe_load(self.config) | {"provenance": runs.read_json(path / "provenance.json")},
                settings=wandb.Settings(**settings),
                **scrubbed(asdict(self.wandb) | {"tags": tags}) | {"mode": self.mode},
            )
        except wandb.Error as fault:
            if self.going_on is None:  # nothing but what this call has made
                shutil.rmtree(path)
            raise UserError(
                f"W&B is {self.mode} and does not answer ({str(fault).splitlines()[0]}): use --wandb.mode offline, and "
                "wandb sync afterwards"
            ) from fault
        define_axes(run)
        return run

    def _repeat(self, rows: list[tuple[dict[str, float], int]]) -> None:
        """Log again what came before: of W&B's offline records of one run the last replaces the others."""
        for values, step in rows:
            self._wandb_logger.log_metrics(values, step)


def _dataset(trainer: Trainer) -> dict[str, Any]:
    return trainer.datamodule.describe()
