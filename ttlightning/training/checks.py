"""Checks and settings between the making of trainer, model and data and the first step."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from ttlightning.errors import UserError
from ttlightning.formats.kernels.dispatch import ARITHMETIC_FOR_THREADS
from ttlightning.runs.beginning import Beginning, check_place
from ttlightning.runs.checkpoints import check_fits, read_checkpoint
from ttlightning.training.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.training.classifier import Classifier
from ttlightning.training.datamodule import PatchDataModule
from ttlightning.training.steps import who_begins_epochs

CHECKPOINT_WISHES: Final = ("monitor", "every_n_epochs", "every_n_train_steps", "train_time_interval")
"""Options of ``checkpoint`` that have an effect only if checkpoints are kept."""


def check_fit(trainer: Trainer, model: Classifier, datamodule: PatchDataModule, checkpoint: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if an option of ``fit`` could not be honoured.

    Args:
        checkpoint: the options of the checkpoints that are kept beside the last one.
    """
    model.take_images_of(datamodule)
    if datamodule.has_lengths and not model.format.any_length:
        raise UserError(model.format.has_one_length())
    if getattr(model.features, "takes_bytes", False) and datamodule.spec.floats:
        raise UserError(
            f"model.features is {type(model.features).__name__}, which takes bytes, and the data are floats"
        )
    if trainer._model_registry is not None:
        raise UserError(
            "trainer.model_registry is for uploads to Lightning's cloud, which fit does not make; leave it out"
        )
    if (start := getattr(trainer.strategy, "_start_method", "popen")) != "popen":
        raise UserError(
            f"trainer.strategy starts processes by {start}, which would lose the result that they compute: use ddp"
        )
    for callback in trainer.callbacks:
        if isinstance(callback, LastCheckpoint):
            callback.check(trainer, model)
    if wish := next((name for name in CHECKPOINT_WISHES if checkpoint[name] and checkpoint["save_top_k"] == 0), None):
        raise UserError(
            f"checkpoint.{wish} is {checkpoint[wish]}, but nothing is kept beside the last one: add "
            "--checkpoint.save_top_k 1"
        )


def check_that_no_checkpoint_is_asked_for(callbacks: Sequence[Callback], options: Any) -> None:
    """Raise ``UserError`` if checkpoints are asked for beside ``trainer.enable_checkpointing false``."""
    asked = [f"trainer.callbacks has {type(c).__name__}" for c in callbacks if isinstance(c, ModelCheckpoint)]
    if options.checkpoint.save_top_k:
        asked.append(f"checkpoint.save_top_k is {options.checkpoint.save_top_k}")
    if options.last_checkpoint.every_n_steps is not None:
        asked.append(f"last_checkpoint.every_n_steps is {options.last_checkpoint.every_n_steps}")
    if asked:
        raise UserError(f"trainer.enable_checkpointing is false, but {asked[0]}: leave one of them out")


def fitting_checkpoint(file: Path, model: Classifier, datamodule: PatchDataModule) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        UserError: if it is of another network or other classes.
    """
    content = read_checkpoint(file)
    check_fits(content, model, file)
    datamodule.check_classes(content, file)
    return content


def begin_at(begin: Beginning, content: Mapping[str, Any], trainer: Trainer, model: Classifier) -> None:
    """Give the model a checkpoint's weights if ``fit`` begins with them alone; else check the place in the epoch.

    Raises:
        UserError: if the run cannot go on from the checkpoint's place.
    """
    if begin.state is not None:
        begins = who_begins_epochs(trainer, model)
        check_place(content, begin.state, model.steps_per_execution, trainer.accumulate_grad_batches, begins)
    if begin.weights is not None:
        model.load_state_dict(content["state_dict"])
        if rank_zero_only.rank == 0:
            print(f"begins      with the weights of {begin.weights}; optimizer, schedule and epochs are new")


def choose_threads(trainer: Trainer, model: Classifier, datamodule: PatchDataModule) -> None:
    """Use one thread on a CPU if a pass is too small for several, and ``$OMP_NUM_THREADS`` is not set."""
    if trainer.strategy.root_device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    batch = datamodule.batch_size // max(datamodule.microbatches, trainer.world_size)
    if datamodule.microbatches > 1 or batch * model.format.multiplications() < ARITHMETIC_FOR_THREADS:
        torch.set_num_threads(1)
