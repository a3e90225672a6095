"""Optimizers and learning-rate schedules from the factories of a configuration."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, TypeVar

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ttlightning.errors import UserError
from ttlightning.training.steps import steps_of_a_run

OptimizerFactory = Callable[[Any], Optimizer]  # (parameters)
SchedulerFactory = Callable[[Optimizer], LRScheduler]  # (optimizer)
T, Made = TypeVar("T"), TypeVar("Made")
Interval = Literal["step", "epoch"]

FOLLOWS_A_METRIC: Final = (
    "model.scheduler is ReduceLROnPlateau, which follows a metric that checkpoints do not hold: use a schedule of "
    "steps or epochs, such as OneCycleLR, CosineAnnealingLR or ExponentialLR"
)


def check_kind(scheduler: Any) -> None:
    """Raise ``UserError`` for a schedule, or a factory of one, that follows a metric."""
    kinds = (scheduler, type(scheduler), getattr(scheduler, "func", None), *getattr(scheduler, "args", ()))
    if ReduceLROnPlateau in kinds:
        raise UserError(FOLLOWS_A_METRIC)


def make(name: str, factory: Callable[[T], Made], argument: T) -> Made:
    """``factory(argument)``; ``UserError`` if the factory of ``model.<name>`` refuses its arguments."""
    try:
        return factory(argument)
    except (TypeError, ValueError, AttributeError) as fault:
        raise UserError(f"model.{name} cannot be made: {fault}") from fault


def make_schedule(factory: SchedulerFactory, optimizer: Optimizer, interval: Interval, trainer: Trainer) -> LRScheduler:
    """The schedule; ``total_steps=None`` becomes the length of the run.

    Raises:
        UserError: the schedule refuses its arguments, follows a metric, or ends before the run.
    """
    if isinstance(factory, partial) and factory.keywords.get("total_steps", 0) is None:
        factory = partial(factory, total_steps=_length(trainer, interval) or 0)
    schedule = make("scheduler", factory, optimizer)
    steps = getattr(schedule, "total_steps", None)
    if steps is not None and trainer.datamodule is not None:
        length = _length(trainer, interval)
        if length is not None and length > steps:
            raise UserError(
                f"model.scheduler has total_steps {steps} and the run makes {length} {interval}s: "
                "leave total_steps null, or ask for as many"
            )
    check_kind(schedule)
    return schedule


def _length(trainer: Trainer, interval: Interval) -> int | None:
    """Steps or epochs of the run; ``None`` if ``max_epochs`` is not set."""
    if interval == "epoch":
        return trainer.max_epochs
    data = trainer.datamodule
    return steps_of_a_run(trainer, data.batches) if hasattr(data, "batches") else trainer.estimated_stepping_batches
