"""The run directory of a fit: made when data and network are known to be sound, filled as the run goes."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import wandb
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ttlightning import runs
from ttlightning.callbacks.rank_check import RankCheck
from ttlightning.checkpoints import CONFIG_KEY


@dataclass
class WandbOptions:
    """How Weights & Biases records the run.

    Args:
        mode: offline writes to the run directory only, online needs an account; default ``$WANDB_MODE``, else offline.
        project: the project that runs belong to.
        entity: user or team; by default the account's own.
        tags: words to filter runs by.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str = "ttlightning"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


class RunDirectory(Callback):
    """Makes ``<root>/<experiment>/<n>``, attaches the CSV and W&B loggers, and writes config, provenance and result.

    It does so in ``setup``, after the data have been read: a mistake in the configuration leaves nothing behind.
    """

    def __init__(self, experiment: str, config: str, wandb: WandbOptions, mode: str) -> None:
        self.experiment, self.config, self.wandb, self.mode = experiment, config, wandb, mode
        self.path: Path | None = None
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        made = runs.create_run_directory(runs.runs_root(), self.experiment) if trainer.is_global_zero else None
        self.path = path = trainer.strategy.broadcast(made)
        table = CSVLogger(path.parent.parent, self.experiment, path.name, flush_logs_every_n_steps=1)
        if trainer.is_global_zero:
            _ = table.experiment  # now, while the folder is empty: later it would warn that it deletes an older table
            (path / "wandb").mkdir()
        trainer.loggers = [*trainer.loggers, table, WandbLogger(experiment=self._open_wandb(path))]
        for callback in trainer.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(path / "checkpoints")
            if isinstance(callback, RankCheck):
                callback.directory = path / "rank"
        if trainer.is_global_zero:
            (path / "config.yaml").write_text(self.config)
            runs.write_json(path / "provenance.json", runs.provenance(_dataset(trainer), trainer.world_size))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self._started
        self._collect(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config

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
            self._summarize(trainer, result)
        return result

    def _summarize(self, trainer: Trainer, result: dict[str, Any]) -> None:
        """What W&B's table of runs shows beside the accuracies; exact integers as text."""
        rank = result["rank"]
        found = {"weights_sha256": result["weights_sha256"], "parameters": result["parameters"]}
        if "statement" in rank:
            found |= {"rank/certified_exact": str(min(rank["certified"])), "rank/statement": rank["statement"]}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(found)

    def _collect(self, trainer: Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}

    @rank_zero_only
    def _open_wandb(self, path: Path) -> Any:
        """The W&B run, with the complete configuration, filed under the experiment's name."""
        return wandb.init(
            dir=str(path),
            name=f"{self.experiment}-{path.name}",
            group=self.experiment,
            job_type="fit",
            config=yaml.safe_load(self.config),
            **asdict(self.wandb) | {"mode": self.mode},
        )


def _dataset(trainer: Trainer) -> dict[str, Any]:
    return trainer.datamodule.describe()
