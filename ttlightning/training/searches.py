"""A learning rate or a batch size that is searched before a run.

Lightning's ``LearningRateFinder`` and ``BatchSizeFinder`` replace a setting after the configuration has been written.
Here they search with a copy of the network, before the run directory is made; the value then stands in config.yaml,
so that the run can be repeated without a search.
"""

import copy
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ttlightning.errors import UserError

KEYS_OF_FINDERS: Final[dict[type[Callback], tuple[str, ...]]] = {
    LearningRateFinder: ("model.optimizer.init_args.lr", "model.scheduler.init_args.max_lr"),
    BatchSizeFinder: ("data.batch_size",),
}
"""Callback: keys of the configuration that its value goes to. OneCycleLR replaces the optimizer's rate by max_lr."""

FINDERS: Final = tuple(KEYS_OF_FINDERS)
QUIET: Final = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                "enable_model_summary": False}  # fmt: skip
WITHOUT_TRAINING: Final = ("fast_dev_run", "barebones")
"""Options of the trainer with which nothing is searched."""


class StopBeforeTraining(Callback):
    """End ``fit`` before its first step; finders search when ``fit`` starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def searched(
    finder: Callback, kind: type[Trainer], options: Mapping[str, Any], model: LightningModule, data: LightningDataModule
) -> float | int:
    """The learning rate or the batch size that a finder suggests for a network, which stays as it is.

    A batch has at most all training samples.

    Args:
        kind, options: class and arguments of the run's trainer.

    Raises:
        UserError: several processes, or a search without a result.
    """
    name = type(finder).__name__
    with tempfile.TemporaryDirectory() as folder:
        changed = QUIET | {"callbacks": [finder, StopBeforeTraining()], "default_root_dir": folder}
        trainer = kind(**options | changed)
        if trainer.world_size > 1:
            raise UserError(
                f"{name} searches on one device, and the run has {trainer.world_size}: search with --trainer.devices 1 "
                "--trainer.max_epochs 1, and give that run's config.yaml to the run on several"
            )
        own = copy.copy(data)  # it shares the images
        try:
            trainer.fit(copy.deepcopy(model), datamodule=own)
        except (AttributeError, MisconfigurationException) as fault:
            raise UserError(f"{name} cannot search: {fault}") from fault
    if isinstance(finder, BatchSizeFinder):
        value = finder.optimal_batch_size and min(finder.optimal_batch_size, own.describe()["train"])
    else:
        value = finder.optimal_lr and finder.optimal_lr.suggestion()
    if value is None:
        raise UserError(f"{name} has no suggestion: the losses of its steps show no best value; widen its range")
    return value


def keys_of(finder: Callback) -> tuple[str, ...]:
    """Keys of the configuration that a finder's value goes to."""
    return next(keys for kind, keys in KEYS_OF_FINDERS.items() if isinstance(finder, kind))


def take(finder: Callback, value: float | int, model: Any, data: Any) -> None:
    """Give the value to the network or to the data."""
    if isinstance(finder, BatchSizeFinder):
        data.batch_size = value
    else:
        model.lr = value
