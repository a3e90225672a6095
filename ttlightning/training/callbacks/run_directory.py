"""The run directory of a fit: made when data and network are known to be sound, filled as the run goes."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import wandb
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ttlightning.errors import UserError
from ttlightning.runs import run as runs
from ttlightning.runs.checkpoints import CONFIG_KEY, RUN_KEY, weights_sha256
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.masking import MASK, Masked, masked, masked_keys
from ttlightning.runs.provenance import differences, masked_provenance
from ttlightning.runs.trust import option_for
from ttlightning.system import signals
from ttlightning.system.paths import command
from ttlightning.training.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.callbacks.run_figures import RunFigures
from ttlightning.training.callbacks.wandb_run import (
    WandbOptions,
    define_axes,
    init_timeout,
    new_identifier,
    tags,
    wandb_mistake,
)
from ttlightning.training.loggers import MetricsTable, Record


class RunDirectory(Callback):
    """Makes ``<root>/<experiment>/<n>``, attaches the CSV and W&B loggers, and writes config, provenance and result.

    It does so in ``setup``, after the data have been read: a mistake in the configuration leaves nothing behind. Where
    ``going_on`` names a run directory, that run goes on: its tables keep what the checkpoint knows of, its W&B run is
    continued under its identifier. ``data_sha256`` says which data a state that is taken up was trained on.
    """

    def __init__(
        self,
        experiment: str,
        config: str,
        wandb: WandbOptions,
        mode: str,
        going_on: Path | None = None,
        data_sha256: str | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        self.experiment, self.config, self.wandb, self.mode = experiment, config, wandb, mode
        self.hidden = list(hidden)
        self.going_on, self.path, self.data_sha256 = going_on, going_on, data_sha256
        self.trusted: list[str] = []
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._validated = ""
        """weights_sha256 of the weights that were validated last"""
        self._started: float | None = None
        self._table: MetricsTable | None = None
        self._resumes = False
        self._wandb_run: Any = None
        self._record: Record | None = None
        self._lock: IO[bytes] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        pl_module.configure_optimizers()  # a trial: a mistake in the optimizer or the schedule leaves nothing behind
        begun = self._begin(trainer, pl_module) if trainer.is_global_zero else None
        self.path, mistake = trainer.strategy.broadcast(begun)
        if mistake is not None:  # on every process, so that none waits for the others
            raise UserError(mistake)
        self._table = MetricsTable(self.path)
        self._resumes = (self.path / "checkpoints" / "last.ckpt").exists()
        if not self._resumes and trainer.is_global_zero:  # a run that was stopped before its first checkpoint
            self._table.keep(0)
            (self.path / "rank" / "checks.jsonl").unlink(missing_ok=True)
        self._record = Record(self._wandb_run)
        trainer.loggers = [*trainer.loggers, self._table, self._record]
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
                callback.record = self._record

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter() - self.seconds

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = weights_sha256(pl_module.state_dict())

    def is_validated(self, pl_module: LightningModule) -> bool:
        """Whether the last validation was of these weights."""
        return self._validated == weights_sha256(pl_module.state_dict())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._started = self._elapsed(), None
        self._collect(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what is kept and how the run goes on, whatever ended it."""
        if self._lock is None:
            return
        self._lock.close()
        if self.path is None:  # W&B did not answer
            return
        exception.add_note(self.how_it_goes_on())
        self.finish_record(getattr(exception, "exit_code", 1))

    def how_it_goes_on(self) -> str:
        """What a run that is stopped now has, and the command that goes on with it."""
        kept = "its last checkpoint" if (self.path / "checkpoints" / "last.ckpt").exists() else "no checkpoint yet"
        words = ("fit", "--ckpt_path", self.path, *option_for(self.trusted).split())
        return f"{self.path} has {kept}; it goes on with: {command(*words)}"

    def finish_record(self, exit_code: int = 0) -> None:
        """Let W&B's service write what it has, and end."""
        if self._record is not None:
            self._record.attempt(lambda: wandb.finish(exit_code))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The configuration; and what a run that goes on must know: rows of the table, values and seconds so far."""
        self._collect(trainer)
        checkpoint[CONFIG_KEY] = self.config
        rows = self._table.rows if self._table is not None and trainer.is_global_zero else 0
        checkpoint[RUN_KEY] = {"rows": rows, "metrics": dict(self.metrics), "seconds": self._elapsed()}
        checkpoint[RUN_KEY] |= {"validated": self._validated, "data_sha256": _dataset(trainer)["sha256"]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._resumes and RUN_KEY in checkpoint:
            state = checkpoint[RUN_KEY]
            self.metrics, self.seconds = dict(state["metrics"]), state["seconds"]
            self._validated = state.get("validated", "")
            kept = self._table.keep(state["rows"])
            if self.mode == "offline" and trainer.is_global_zero:
                self._repeat(kept)

    def write_result(self, trainer: Trainer, pl_module: LightningModule, seed: int) -> dict[str, Any]:
        """Write and return ``result.json``: what compare, rerun and the tables read.

        From here on a signal comes too late to stop the run.
        """
        signals.hold("when the result is written")
        check = next((c for c in trainer.callbacks if isinstance(c, RankCheck)), None)
        result = {
            "experiment": self.experiment,
            "dataset": _dataset(trainer)["name"],
            "seed": seed,
            "epochs": trainer.current_epoch,
            "metrics": self.metrics,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "weights_sha256": weights_sha256(pl_module.state_dict()),
            "seconds": self.seconds,
            "rank_check_seconds": check.seconds if check else 0.0,
            "rank": check.latest if check else {},
        }
        if self.path is not None and trainer.is_global_zero:
            write_json(self.path / "result.json", result)
            signals.say_at_last(str)
            self._summarize(result)
            self._lock.close()
        return result

    def _summarize(self, result: dict[str, Any]) -> None:
        """What W&B's table of runs shows beside the accuracies; exact integers as text."""
        rank = result["rank"]
        found = {name: result[name] for name in ("weights_sha256", "parameters", "seconds")}
        if "statement" in rank:
            found |= {"rank/certified_exact": str(min(rank["certified"])), "rank/statement": rank["statement"]}
        self._record.attempt(lambda: self._wandb_run.summary.update(found))

    def _collect(self, trainer: Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}

    def _elapsed(self) -> float:
        """Seconds of training so far, those before the checkpoint that the run went on from among them."""
        return self.seconds if self._started is None else time.perf_counter() - self._started

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Path | None, str | None]:
        """The run's directory, or what the user has to mend; W&B's run open."""
        try:
            patience = init_timeout()
            with signals.held("when the run directory is made"):
                path, identifier = self._claim(trainer)
            labels = self._labels(tags(trainer, pl_module, self.wandb.tags))
            self._wandb_run = self._open_wandb(path, identifier, labels, patience)
            self._say_what_is_hidden()
        except UserError as mistake:
            return None, str(mistake)
        return path, None

    def _claim(self, trainer: Trainer) -> tuple[Path, str]:
        """The run's directory, locked, with config and provenance inside, and the identifier of its W&B run."""
        record = self._without_secrets(masked_provenance(_dataset(trainer), trainer.world_size))
        self._check_data(record["dataset"])
        path = self.going_on or runs.create_run_directory(runs.runs_root(), self.experiment)
        self.path = path
        if self.going_on is None:
            (path / "config.yaml").write_text(self.config)
        self._lock = runs.lock_run(path)
        signals.say_at_last(self.how_it_goes_on)
        file = path / "provenance.json"
        if file.exists():
            before = read_json(file)
            changed = {d.name: d.now for d in differences(before, record)}
            record = before | {"resumed": [*before.get("resumed", []), {"argv": record["argv"], "changed": changed}]}
        else:
            record |= {"wandb": new_identifier()}
        write_json(file, record)
        return path, record["wandb"]

    def _check_data(self, dataset: dict[str, Any]) -> None:
        """Raise ``UserError`` where training would go on with other data than those that it began with."""
        before = self.data_sha256
        if self.going_on is not None and (file := self.going_on / "provenance.json").exists():
            before = read_json(file).get("dataset", {}).get("sha256")
        if before not in (None, dataset["sha256"]):
            raise UserError(
                f"the data have changed: {dataset['name']} has SHA-256 {dataset['sha256'][:12]}..., training began on "
                f"{before[:12]}...; name the folder of those with --data.root"
            )

    def _without_secrets(self, found: Masked) -> Any:
        self.hidden += found.names
        return found.content

    def _labels(self, tags: list[str]) -> dict[str, Any]:
        """What the user has chosen of a W&B run, notes from the environment among it."""
        return self._without_secrets(
            masked(asdict(self.wandb) | {"tags": tags, "notes": os.environ.get("WANDB_NOTES")})
        )

    def _say_what_is_hidden(self) -> None:
        """One line, if there is anything; and which values the run must be given again, should it go on."""
        if not self.hidden:
            return
        line = f"masked as {MASK} in what this run writes: {', '.join(dict.fromkeys(self.hidden))}"
        config = yaml.safe_load(self.config)
        if again := masked_keys({name: part for name, part in config.items() if name != "wandb"}):
            line += f"; config.yaml does not keep {', '.join(again)}: give it again where the run goes on"
        print(f"ttlightning: {line}", file=sys.stderr)

    def _open_wandb(self, path: Path, identifier: str, labels: dict[str, Any], patience: float) -> Any:
        """The W&B run, with the complete configuration, filed under the experiment's name and with ``labels``.

        W&B's own record of machine, user, folders and terminal is left out: it names the home folder, and the
        provenance says what of it matters.
        """
        (path / "wandb").mkdir(exist_ok=True)
        settings = {"console": "off", "x_disable_meta": True, "disable_git": True, "init_timeout": patience}
        try:
            run = wandb.init(
                dir=str(path),
                id=identifier,
                resume="allow",
                name=f"{self.experiment}-{path.name}",
                group=self.experiment,
                job_type="fit",
                config=yaml.safe_load(self.config) | {"provenance": read_json(path / "provenance.json")},
                settings=wandb.Settings(**settings),
                **labels | {"mode": self.mode},
            )
        except (wandb.Error, ConnectionError, ValueError) as fault:
            if self.going_on is None:  # nothing but what this call has made
                shutil.rmtree(path)
            raise UserError(wandb_mistake(fault, self.mode)) from fault
        define_axes(run)
        return run

    def _repeat(self, rows: list[tuple[dict[str, float], int]]) -> None:
        """Log again what came before: of W&B's offline records of one run the last replaces the others."""
        for values, step in rows:
            self._record.log_metrics(values, step)


def _dataset(trainer: Trainer) -> dict[str, Any]:
    return trainer.datamodule.describe()
