"""Optimizers and learning-rate schedules from the factories of a configuration."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal, TypeVar

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ttlightning.errors import UserError
from ttlightning.optim import CoreMuon
from ttlightning.training.steps import steps_of_a_run

OptimizerFactory = Callable[[Any], Optimizer]  # (parameters)
SchedulerFactory = Callable[[Optimizer], LRScheduler]  # (optimizer)
T, Made = TypeVar("T"), TypeVar("Made")
Interval = Literal["step", "epoch"]

OWN: Final = (CoreMuon,)
"""Optimizers of this package; their import lets a configuration name them without their module."""

PEAKS: Final = ("max_lr",)
"""Arguments of schedules such as OneCycleLR that replace the optimizer's learning rate."""


def class_of(factory: Any) -> type | None:
    """The class of optimizers or schedules that a factory makes; None for another function."""
    candidates = (factory, getattr(factory, "func", None), *getattr(factory, "args", ()))
    kinds = (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Optimizer | LRScheduler))
    return next(kinds, None)


def needs_closure(factory: OptimizerFactory) -> bool:
    """Whether a step of the optimizer evaluates the loss itself, as LBFGS does."""
    kind = class_of(factory)
    closure = inspect.signature(kind.step).parameters.get("closure") if kind else None
    return closure is not None and closure.default is inspect.Parameter.empty


def learning_rate(factory: OptimizerFactory) -> float:
    """The factory's ``lr``; ``UserError`` if it has none."""
    rate = getattr(factory, "keywords", {}).get("lr")
    if rate is None and (kind := class_of(factory)) is not None:
        parameter = inspect.signature(kind).parameters.get("lr")
        rate = parameter.default if parameter is not None else None
    if not isinstance(rate, int | float | Tensor):
        raise UserError("model.optimizer has no argument lr: set model.optimizer.init_args.lr")
    return float(rate)


def with_argument(factory: Any, name: str, value: Any) -> Any:
    """The factory with another value of an argument, if it has this argument; else the factory itself."""
    kind = class_of(factory)
    has = name in getattr(factory, "keywords", {}) or (kind and name in inspect.signature(kind).parameters)
    return partial(factory, **{name: value}) if has else factory


def follows_metric(scheduler: Any) -> bool:
    """Whether a schedule, or the schedule of a factory, follows a metric."""
    kind = type(scheduler) if isinstance(scheduler, LRScheduler) else class_of(scheduler)
    return kind is not None and issubclass(kind, ReduceLROnPlateau)


def check_interval(scheduler: Any, interval: Interval) -> None:
    """Raise ``UserError`` for a schedule that follows a metric and would advance with every step."""
    if scheduler is not None and follows_metric(scheduler) and interval != "epoch":
        raise UserError(
            "model.scheduler is ReduceLROnPlateau, which follows a metric of epochs: set --model.scheduler_interval "
            "epoch"
        )


def metric_of(schedule: LRScheduler, has_validation: bool) -> str:
    """The metric that a schedule follows: its ``monitor``, else the validation loss, else the training loss.

    ``lightning.pytorch.cli.ReduceLROnPlateau`` has a ``monitor``; torch's class has none.
    """
    return getattr(schedule, "monitor", None) or ("val/loss" if has_validation else "train/loss")


def follow(schedule: ReduceLROnPlateau, name: str, values: Mapping[str, float], others: Mapping[str, Tensor]) -> None:
    """Advance a schedule by the value of its metric.

    Args:
        values: losses and accuracies of this epoch. An epoch without validation does not advance a schedule that
            follows ``val/loss``.
        others: what callbacks have logged.

    Raises:
        UserError: the run has no such metric.
    """
    if name in values:
        schedule.step(values[name])
    elif not name.startswith("val/"):
        if name not in others:
            known = ", ".join(sorted({*values, *others}))
            raise UserError(f"model.scheduler follows {name}, which this run does not have; it has {known}")
        schedule.step(float(others[name]))


def check_metric(name: str, has_validation: bool) -> None:
    """Raise ``UserError`` if a schedule follows a metric of a validation that the run does not have."""
    if name.startswith("val/") and not has_validation:
        raise UserError(f"model.scheduler follows {name}, and nothing is validated: set --data.validation 0.1")


def make(name: str, factory: Callable[[T], Made], argument: T) -> Made:
    """``factory(argument)``; ``UserError`` if the factory of ``model.<name>`` refuses its arguments."""
    try:
        return factory(argument)
    except (TypeError, ValueError, AttributeError) as fault:
        raise UserError(f"model.{name} cannot be made: {fault}") from fault


def make_schedule(factory: SchedulerFactory, optimizer: Optimizer, interval: Interval, trainer: Trainer) -> LRScheduler:
    """The schedule; ``total_steps=None`` becomes the length of the run.

    Raises:
        UserError: the schedule refuses its arguments, or ends before the run.
    """
    if isinstance(factory, partial) and factory.keywords.get("total_steps", 0) is None:
        factory = partial(factory, total_steps=_length(trainer, interval) or 0)
    schedule = make("scheduler", factory, optimizer)
    check_interval(schedule, interval)
    steps = getattr(schedule, "total_steps", None)
    if steps is not None and trainer.datamodule is not None:
        length = _length(trainer, interval)
        if length is not None and length > steps:
            raise UserError(
                f"model.scheduler has total_steps {steps} and the run makes {length} {interval}s: "
                "leave total_steps null, or ask for as many"
            )
    return schedule


def _length(trainer: Trainer, interval: Interval) -> int | None:
    """Steps or epochs of the run; ``None`` if ``max_epochs`` is not set."""
    if interval == "epoch":
        return trainer.max_epochs
    data = trainer.datamodule
    return steps_of_a_run(trainer, data.batches) if hasattr(data, "batches") else trainer.estimated_stepping_batches
