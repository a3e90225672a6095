"""Lightning's restoring of a checkpoint: where the file does not fit, one line that says so."""

import contextlib
import copy
from collections.abc import Iterator
from numbers import Number
from typing import Any

import torch
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

from ttlightning.errors import UserError


class CheckpointConnector(_CheckpointConnector):
    """Weights, then callbacks, then loops, optimizers and schedules; each state has a form that only its owner knows.

    A run begins with the checkpoint that is named, and with none where none is. Lightning's own, where none is named,
    takes what it finds: an ``hpc_ckpt_*.ckpt`` that another job has left in the working directory, or the file of an
    ``OnExceptionCheckpoint``.

    Raises:
        UserError: where an owner does not take the state that the checkpoint has for it.
    """

    @property
    def _hpc_resume_path(self) -> None:
        return None

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, model_provided: bool, model_connected: bool) -> Any:
        if ckpt_path is None and model_provided:
            return None
        return super()._parse_ckpt_path(state_fn, ckpt_path, model_provided, model_connected)

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
        for optimizer, state in zip(self.trainer.optimizers, self._loaded_checkpoint["optimizer_states"], strict=True):
            for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=False):
                _check_kinds(ours, theirs, [name for name in ours if name in theirs or name in optimizer.defaults])
        super().restore_optimizers()
        for optimizer in self.trainer.optimizers:
            _try_a_step(optimizer)

    def restore_lr_schedulers(self) -> None:
        states = self._loaded_checkpoint["lr_schedulers"]
        for config, state in zip(self.trainer.lr_scheduler_configs, states, strict=False):
            ours = config.scheduler.state_dict()
            if other := [name for name in state if name not in ours and hasattr(config.scheduler, name)]:
                raise TypeError(f"a schedule's state has no {other[0]}")
            _check_kinds(ours, state, [name for name in ours if name in state])
        super().restore_lr_schedulers()

    @contextlib.contextmanager
    def _saying_what_does_not_fit(self, file: Any) -> Iterator[None]:
        try:
            yield
        except (UserError, MisconfigurationException):
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as fault:
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


def _check_kinds(ours: dict[str, Any], theirs: dict[str, Any], names: list[str]) -> None:
    """Raise where a value would become another kind of thing: torch's optimizers and schedules take what they get."""
    for name in names:
        if not _is_alike(theirs[name], ours[name]):
            raise TypeError(f"{name} is {theirs[name]!r:.40}, it must be of the kind of {ours[name]!r:.40}")


def _is_alike(theirs: Any, ours: Any) -> bool:
    if type(ours) is dict:
        return (
            isinstance(theirs, dict) and set(ours) == set(theirs) and all(_is_alike(theirs[k], ours[k]) for k in ours)
        )
    if isinstance(ours, list | tuple):
        return isinstance(theirs, list | tuple) and len(ours) == len(theirs) and all(map(_is_alike, theirs, ours))
    if ours is None or isinstance(ours, bool):
        return theirs is None or isinstance(theirs, Number)
    if isinstance(ours, Number | Tensor):
        return isinstance(theirs, Number) or (isinstance(theirs, Tensor) and theirs.numel() == 1)
    return type(theirs) is type(ours)
