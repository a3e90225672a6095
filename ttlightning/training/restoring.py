"""Restore a checkpoint with Lightning; a file that does not fit is one line."""

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
    """Restores weights, callbacks, loops, optimizers and schedules from the checkpoint that the user names.

    If none is named, nothing is restored. Lightning's own connector would take an ``hpc_ckpt_*.ckpt`` that another job
    has left in the working directory, or the file of an ``OnExceptionCheckpoint``.

    Raises:
        UserError: if a part of the trainer does not take its state.
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
        states, optimizers = self._loaded_checkpoint["optimizer_states"], self.trainer.optimizers
        if len(states) != len(optimizers):  # Lightning would ignore the difference
            raise ValueError(f"it has the states of {len(states)} optimizers, not of {len(optimizers)}")
        for optimizer, state in zip(optimizers, states, strict=True):
            for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=False):
                _check_kinds(ours, theirs, [name for name in ours if name in theirs or name in optimizer.defaults])
        super().restore_optimizers()
        for optimizer in optimizers:
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
    """Try a step with gradients 0 on a copy, since torch checks the state of a parameter only when it uses it.

    torch copies an optimizer without the attributes that a subclass has added, and these are copied here. ``step`` is
    the one that a schedule has wrapped, and steps the original. An optimizer that cannot be copied (a lock, a process
    group) is not tried: its own step will complain.
    """
    copied: dict[int, Any] = {}
    trial = copy.deepcopy(optimizer, copied)
    lost = {name: value for name, value in vars(optimizer).items() if name not in vars(trial) and name != "step"}
    try:
        vars(trial).update(copy.deepcopy(lost, copied))
    except (TypeError, RuntimeError):
        return
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step(lambda: 0.0)


def _check_kinds(ours: dict[str, Any], theirs: dict[str, Any], names: list[str]) -> None:
    """Raise ``TypeError`` if a value changes its kind, which torch's optimizers and schedules do not check."""
    for name in names:
        if not _is_alike(theirs[name], ours[name]):
            raise TypeError(f"{name} is {theirs[name]!r:.40}, it must be of the kind of {ours[name]!r:.40}")


def _is_alike(theirs: Any, ours: Any) -> bool:
    if type(ours) is dict:
        same_keys = isinstance(theirs, dict) and set(ours) == set(theirs)
        return same_keys and all(_is_alike(theirs[key], value) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return isinstance(theirs, list | tuple) and len(ours) == len(theirs) and all(map(_is_alike, theirs, ours))
    if ours is None or isinstance(ours, bool):
        return theirs is None or isinstance(theirs, Number)
    if isinstance(ours, Number | Tensor):
        return isinstance(theirs, Number) or (isinstance(theirs, Tensor) and theirs.numel() == 1)
    return type(theirs) is type(ours)
