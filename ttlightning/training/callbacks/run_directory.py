"""The run directory of a fit: made once data and network are checked, filled during the run."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import wandb
import yaml
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import Logger

from ttlightning.errors import UserError
from ttlightning.runs.beginning import Beginning
from ttlightning.runs.checkpoints import CONFIG_KEY, RUN_KEY, weights_sha256
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.masking import MASK, Masked, masked, masked_keys
from ttlightning.runs.provenance import differences, provenance
from ttlightning.runs.run import Run, runs_root
from ttlightning.runs.trust import option_for
from ttlightning.system import signals
from ttlightning.system.paths import command
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.callbacks.wandb_run import WandbOptions, init_timeout, new_identifier, open_wandb, tags
from ttlightning.training.loggers import MetricsTable, Record
from ttlightning.training.trainer import Trainer


class RunDirectory(Callback):
    """Make or continue the run directory: ``trainer.run`` for the other callbacks, loggers, config, provenance, result.

    ``setup`` makes it, after the data have been read: a mistake in the configuration leaves nothing behind. A run that
    goes on keeps the rows of its tables that the checkpoint knows of, and its W&B run continues under its identifier.

    Args:
        experiment: name of the run's folder, and of the group of its W&B run.
        config: complete configuration of the run as YAML; for a run that goes on the one that it began with.
        wandb: how Weights & Biases records the run.
        begin: the run that goes on or the new one that a path was given for, and the data of a state that is taken up.
        hidden: names of values that are masked in ``config``.
    """

    def __init__(
        self,
        experiment: str,
        config: str,
        wandb: WandbOptions,
        begin: Beginning | None = None,
        hidden: Sequence[str] = (),
    ) -> None:
        self.experiment, self.config, self.wandb, self.mode = experiment, config, wandb, wandb.chosen_mode()
        self.begin, self.hidden = begin or Beginning(), list(hidden)
        self.run: Run | None = None
        self.trusted: list[str] = []
        self.keeps_checkpoints = True
        self.searched: dict[str, float | int] = {}
        """Settings that were searched before the run, and their values."""
        self.way_on = ""
        """call that goes on with the run at {}, if no command does"""
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._validated = ""
        """weights_sha256 of the weights that were validated last"""
        self._started: float | None = None
        self._table, self._record = MetricsTable(), Record()
        self.loggers: list[Logger] = [self._table, self._record]
        """The run's loggers. The table comes first: Lightning's ModelCheckpoint writes beside its files."""
        self._resumes = False
        self._wandb_run: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        pl_module.configure_optimizers()  # a trial: a mistake in the optimizer or the schedule leaves nothing behind
        mistake = self._begin(trainer, pl_module) if trainer.is_global_zero else None
        path, mistake = trainer.strategy.broadcast((self.run and self.run.path, mistake))
        if mistake is not None:  # on every process, so that none waits for the others
            raise UserError(mistake)
        self.run = trainer.run = self.run or Run(path)
        self._table.begin(self.run)
        self._resumes = self.run.checkpoint.exists()
        if not self._resumes and trainer.is_global_zero:  # a run that was stopped before its first checkpoint
            self._table.keep(0)
        self._record.begin(self._wandb_run)
        if self._table not in trainer.loggers:
            trainer.loggers = [*self.loggers, *trainer.loggers]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter() - self.seconds

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated = weights_sha256(pl_module.state_dict())

    def is_validated(self, pl_module: LightningModule) -> bool:
        """Whether the last validation was of these weights."""
        return self._validated == weights_sha256(pl_module.state_dict())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    on_fit_end = on_test_end = on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # after the last check and the figures, which others make when the fit ends
            self.seconds, self._started = self._elapsed(), None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what is kept and how the run goes on, whatever ended it."""
        if self.run is None or not trainer.is_global_zero:
            return
        self.run.lock.release()
        exception.add_note(self.how_it_goes_on())
        self.finish_record(getattr(exception, "exit_code", 1))

    def how_it_goes_on(self) -> str:
        """What a run that stops now has, and the command that goes on with it."""
        if not self.keeps_checkpoints:
            again = command("fit", "--config", self.run.config_file, *option_for(self.trusted).split())
            return f"{self.run} has no checkpoint, because trainer.enable_checkpointing is false; anew: {again}"
        kept = "its last checkpoint" if self.run.checkpoint.exists() else "no checkpoint yet"
        words = ("fit", "--ckpt_path", self.run.path, *option_for(self.trusted).split())
        way_on = self.way_on.format(str(self.run)) if self.way_on else command(*words)
        return f"{self.run} has {kept}; it goes on with: {way_on}"

    def finish_record(self, exit_code: int = 0) -> None:
        """Let W&B's service write what it has, and end."""
        if self._wandb_run is not None:
            self._record.attempt(lambda: wandb.finish(exit_code))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The configuration; and what a run that goes on must know: rows of the table, values and seconds so far."""
        self._collect(trainer)
        checkpoint[CONFIG_KEY] = self.config
        checkpoint[RUN_KEY] = {
            "rows": self._table.rows if trainer.is_global_zero else 0,
            "metrics": dict(self.metrics),
            "seconds": self._elapsed(),
            "validated": self._validated,
            "data_sha256": trainer.datamodule.describe()["sha256"],
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._resumes and RUN_KEY in checkpoint:
            state = checkpoint[RUN_KEY]
            self.metrics, self.seconds = dict(state["metrics"]), state["seconds"]
            self._validated = state.get("validated", "")
            kept = self._table.keep(state["rows"])
            if self.mode == "offline" and trainer.is_global_zero:
                for values, step in kept:  # of W&B's offline records of one run the last replaces the others
                    self._record.log_metrics(values, step)

    def write_result(self, trainer: Trainer, pl_module: LightningModule, seed: int) -> dict[str, Any]:
        """Write and return ``result.json``: what compare, rerun and the tables read.

        From here on a signal comes too late to stop the run.
        """
        signals.hold("when the result is written")
        check = next((c for c in trainer.callbacks if isinstance(c, RankCheck)), None)
        result = {
            "experiment": self.experiment,
            "dataset": trainer.datamodule.describe()["name"],
            "seed": seed,
            "epochs": trainer.current_epoch,
            "metrics": self.metrics,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "weights_sha256": weights_sha256(pl_module.state_dict()),
            "seconds": self.seconds,
            "rank_check_seconds": check.seconds if check else 0.0,
            "rank": check.latest if check else {},
        }
        if self.run is not None and trainer.is_global_zero:
            write_json(self.run.result_file, result)
            signals.say_at_last(str)
            self._summarize(result)
            self.run.lock.release()
        return result

    def _summarize(self, result: dict[str, Any]) -> None:
        """Give W&B's table of runs its columns beside the accuracies; exact integers as text."""
        rank = result["rank"]
        columns = {name: result[name] for name in ("weights_sha256", "parameters", "seconds")}
        if "statement" in rank:
            columns |= {"rank/certified_exact": str(min(rank["certified"])), "rank/statement": rank["statement"]}
        self._record.attempt(lambda: self._wandb_run.summary.update(columns))

    def _collect(self, trainer: Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}

    def _elapsed(self) -> float:
        """Seconds of fit so far, with checks and figures, and those before the checkpoint that the run went on from."""
        return self.seconds if self._started is None else time.perf_counter() - self._started

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> str | None:
        """Claim the run and open its W&B run; the message of a user's mistake, None where there is none."""
        try:
            patience = init_timeout()
            with signals.held("when the run directory is made"):
                self._claim(trainer)
            names = tags(trainer, pl_module, self.wandb.tags)
            labels = self._without_secrets(masked(self.wandb.labels(self.experiment, self.run.path.name, names)))
            self._wandb_run = open_wandb(self.run, yaml.safe_load(self.config), labels | {"mode": self.mode}, patience)
            self._say_what_is_hidden()
        except UserError as mistake:
            if self.run is not None and not self.begin.goes_on:  # nothing but what this call has made
                self.run.lock.release()
                shutil.rmtree(self.run.path)
                self.run = None
            return str(mistake)
        return None

    def _claim(self, trainer: Trainer) -> None:
        """Lock the run's directory, and write config and provenance into it."""
        record = self._without_secrets(provenance(trainer.datamodule.describe(), trainer.world_size))
        self._check_data(record["dataset"])
        run = self.begin.run or Run.create(runs_root(), self.experiment)
        run.path.mkdir(parents=True, exist_ok=True)
        run.claim()
        if run.state != ("begun" if self.begin.goes_on else "new"):
            run.lock.release()
            raise UserError(f"{run} was written by another process meanwhile: start again to go on with it")
        self.run = run
        signals.say_at_last(self.how_it_goes_on)
        if not self.begin.goes_on:
            write_whole(run.config_file, self.config.encode())
        if run.provenance_file.exists():
            before = run.provenance
            changed = {d.name: d.now for d in differences(before, record)}
            record = before | {"resumed": [*before.get("resumed", []), {"argv": record["argv"], "changed": changed}]}
        else:
            record |= {"wandb": new_identifier()} | ({"searched": self.searched} if self.searched else {})
        write_json(run.provenance_file, record)

    def _check_data(self, dataset: dict[str, Any]) -> None:
        """Raise ``UserError`` where training would go on with other data than those that it began with."""
        before = self.begin.data_sha256
        if self.begin.goes_on and self.begin.run.provenance_file.exists():
            before = self.begin.run.provenance.get("dataset", {}).get("sha256")
        if before not in (None, dataset["sha256"]):
            raise UserError(
                f"the data have changed: {dataset['name']} has SHA-256 {dataset['sha256'][:12]}..., training began on "
                f"{before[:12]}...; name the folder of those with --data.root"
            )

    def _without_secrets(self, record: Masked) -> Any:
        self.hidden += record.names
        return record.content

    def _say_what_is_hidden(self) -> None:
        """Print a line that names the masked values, and those that the run must be given again if it goes on."""
        if not self.hidden:
            return
        line = f"masked as {MASK} in what this run writes: {', '.join(dict.fromkeys(self.hidden))}"
        config = yaml.safe_load(self.config)
        if again := masked_keys({name: part for name, part in config.items() if name != "wandb"}):
            line += f"; config.yaml does not keep {', '.join(again)}: give it again where the run goes on"
        print(f"ttlightning: {line}", file=sys.stderr)
