"""Optimizer steps in one call of the trainer, and in a run.

Several steps share a call if nothing observes single steps; this saves about a millisecond a step. If a callback, an
option or a hook of the network observes every batch, each step has its own call. Both compute the same bits.
"""

import math
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.profilers import PassThroughProfiler

from ttlightning.errors import UserError

BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
BACKWARD_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
MODULE_HOOKS = (
    *BATCH_HOOKS, *BACKWARD_HOOKS, "backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping",
    "lr_scheduler_step",
)  # fmt: skip
DATA_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")
STEP_OPTIONS: dict[str, Any] = {"accumulate_grad_batches": 1, "gradient_clip_val": None}
"""Options that change how a step is made, and their values without effect."""
BATCH_OPTIONS: dict[str, Any] = {"limit_train_batches": 1.0, "val_check_interval": 1.0, "fast_dev_run": False}
"""Options that count batches, and their values without effect."""
CHANGES_STEPS = (StochasticWeightAveraging, GradientAccumulationScheduler, LearningRateFinder, BatchSizeFinder)
"""Callbacks that change optimizer steps without overriding a hook of steps."""


class KeptCheckpoints(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that says whether it observes single steps."""

    @property
    def looks_at_steps(self) -> bool:
        return bool(self._every_n_train_steps) or self._train_time_interval is not None


def looks_at_steps(callback: Callback) -> bool:
    """Whether a callback observes single steps; its attribute ``looks_at_steps`` decides if it has one."""
    if (says := getattr(callback, "looks_at_steps", None)) is not None:
        return bool(says)
    return isinstance(callback, CHANGES_STEPS) or _overrides(callback, Callback, (*BATCH_HOOKS, *BACKWARD_HOOKS))


def who_looks_at_steps(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, base: type[LightningModule]
) -> str | None:
    """Name of the callback, option, network or data module that observes single steps; None without one.

    ``base`` is the class whose hooks a network may have without observing steps.
    """
    for callback in trainer.callbacks:
        if looks_at_steps(callback):
            return type(callback).__name__
    for name, harmless in (STEP_OPTIONS | BATCH_OPTIONS).items():
        if (value := getattr(trainer, name)) != harmless or type(value) is not type(harmless):
            return f"trainer.{name}"
    if not isinstance(trainer.profiler, PassThroughProfiler):
        return "trainer.profiler"
    if _overrides(module, base, MODULE_HOOKS):
        return type(module).__name__
    return type(data).__name__ if _overrides(data, LightningDataModule, DATA_HOOKS) else None


def _overrides(thing: Any, base: type, hooks: tuple[str, ...]) -> bool:
    """Whether the object or its class overrides one of the hooks."""
    return any(getattr(getattr(thing, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)


def who_begins_epochs(trainer: Trainer, module: LightningModule) -> str | None:
    """Name of the callback or module that acts at the start of an epoch, which a run resumed within an epoch skips.

    Progress bars and LearningRateMonitor only show something and do not count.
    """
    for callback in trainer.callbacks:
        shows = isinstance(callback, ProgressBar | LearningRateMonitor)
        if not shows and _overrides(callback, Callback, ("on_train_epoch_start",)):
            return type(callback).__name__
    return type(module).__name__ if _overrides(module, LightningModule, ("on_train_epoch_start",)) else None


def is_whole_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a run can be resumed after this batch with the same bits.

    It cannot between batches with accumulated gradients, which are not in a checkpoint, or before a validation within
    the epoch, which the resumed run would skip.
    """
    if (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or every == float("inf"):
        return True
    batches = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return bool((batches + 1) % every)


def steps_of_a_run(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of a run whose epochs have ``batches`` global batches.

    Lightning's ``estimated_stepping_batches`` makes the data loader before the state of the fit loop is restored, and
    the position in the epoch would be lost.

    Raises:
        UserError: neither ``max_epochs`` nor ``max_steps`` ends the run.
    """
    limit = trainer.limit_train_batches
    batches = min(limit, batches) if isinstance(limit, int) else int(batches * limit)
    steps: float = math.inf
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        steps = math.ceil(batches / trainer.accumulate_grad_batches) * max(trainer.max_epochs, 1)
    if trainer.max_steps >= 0:
        steps = min(steps, trainer.max_steps)
    if steps == math.inf:
        raise UserError("a schedule with total_steps: null needs trainer.max_epochs or trainer.max_steps")
    return int(steps)
