"""Lightning's restoring of a checkpoint: where the file does not fit, one line that says so."""

import contextlib
import copy
from collections.abc import Iterator
from numbers import Number
from typing import Any

import torch
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from ttlightning.errors import UserError


class CheckpointConnector(_CheckpointConnector):
    """Weights, then callbacks, then loops, optimizers and schedules; each state has a form that only its owner knows.

    Raises:
        UserError: where an owner does not take the state that the checkpoint has for it.
    """

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with self._saying_what_does_not_fit(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with self._saying_what_does_not_fit(self._ckpt_path):
            super().restore_training_state()

    def restore_optimizers(self) -> None:
        found, wanted = (len(given) for given in (self._loaded_checkpoint["optimizer_states"], self.trainer.optimizers))
        if found != wanted:  # which Lightning would pass over
            raise ValueError(f"it has the states of {found} optimizers, not of {wanted}")
        super().restore_optimizers()
        for optimizer in self.trainer.optimizers:
            _try_a_step(optimizer)

    def restore_lr_schedulers(self) -> None:
        states = self._loaded_checkpoint["lr_schedulers"]
        for config, state in zip(self.trainer.lr_scheduler_configs, states, strict=False):
            _check_schedule(config.scheduler, state)
        super().restore_lr_schedulers()

    @contextlib.contextmanager
    def _saying_what_does_not_fit(self, file: Any) -> Iterator[None]:
        try:
            yield
        except (UserError, MisconfigurationException):
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
            if not file:
                raise
            raise UserError(
                f"{file} does not fit what is to go on from it, or was changed: {type(fault).__name__}: {fault}"
            ) from fault


def _try_a_step(optimizer: Optimizer) -> None:
    """A step of a copy, with gradients of 0: torch looks at the states of parameters when it uses them, not before."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step(lambda: 0.0)


def _check_schedule(scheduler: Any, state: dict[str, Any]) -> None:
    """Raise ``TypeError`` where an attribute would become another kind of thing: a schedule takes whatever it gets."""
    for name, value in state.items():
        if callable(getattr(type(scheduler), name, None)) or name == "optimizer":
            raise TypeError(f"a schedule has no state of the name {name}")
        ours = getattr(scheduler, name, value)
        numbers = all(each is None or isinstance(each, Number) for each in (value, ours))
        if type(value) is not type(ours) and not numbers:
            raise TypeError(f"{name} of the schedule is of type {type(value).__name__}, not {type(ours).__name__}")
