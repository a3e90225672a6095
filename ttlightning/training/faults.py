"""Exceptions of Lightning and torch as this package's own: a user's mistake, or a fault in the middle of a run."""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ttlightning.errors import Fault, UserError
from ttlightning.system import signals

_Own = TypeVar("_Own", UserError, Fault)


@contextlib.contextmanager
def own_exceptions() -> Iterator[None]:
    """Inside, a ``MisconfigurationException`` becomes a ``UserError``, and a lost process of the run a ``Fault``.

    Raises:
        Stopped: where a signal was the cause.
    """
    try:
        yield
    except MisconfigurationException as mistake:
        signals.raise_if_stopped(mistake)
        raise _noted(UserError(str(mistake)), mistake) from mistake
    except (torch.distributed.DistError, RuntimeError) as lost:
        if not isinstance(lost, torch.distributed.DistError) and "gloo/transport" not in str(lost):
            raise
        signals.raise_if_stopped(lost)
        reason = str(lost).split(". ")[0]
        raise _noted(Fault(f"another of the run's processes is gone ({reason})"), lost) from lost


def _noted(own: _Own, cause: Exception) -> _Own:
    own.__notes__ = getattr(cause, "__notes__", [])
    return own
