"""Exceptions of Lightning and torch as this package's own: a user's mistake, or a fault in the middle of a run."""

import contextlib
from collections.abc import Iterator

import torch
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ttlightning.errors import Fault, UserError
from ttlightning.system import signals
from ttlightning.system.parsing import is_refused_argument, missing_package


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Inside, Lightning's ``ValueError`` or ``TypeError`` for options of the trainer is a ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError) as fault:
        raise UserError(f"trainer: {fault}") from fault


@contextlib.contextmanager
def own_exceptions() -> Iterator[None]:
    """Inside, exceptions of Lightning and torch become this package's own.

    Raises:
        UserError: for options that do not go together.
        Fault: if another process of the run is gone.
        Stopped: if a signal was the cause of either.
    """
    try:
        yield
    except Exception as cause:
        text = str(cause)
        if isinstance(cause, MisconfigurationException) or is_refused_argument(cause):
            own: Exception = UserError(text)
        elif (missing := missing_package(cause)) is not None:
            own = UserError(f"a package is missing: {missing.rstrip()}")
        elif isinstance(cause, TrainingSpikeException):
            own = Fault(f"SpikeDetection stopped the run: {text}")
        elif "more than one stateful callback" in text:  # a checkpoint could not tell their states apart
            own = UserError(f"trainer.callbacks: {text}")
        elif isinstance(cause, torch.distributed.DistError) or "gloo/transport" in text:
            own = Fault(f"another of the run's processes is gone ({text.split('. ')[0]})")
        else:
            raise
        signals.raise_if_stopped(cause)
        own.__notes__ = getattr(cause, "__notes__", [])
        raise own from cause
