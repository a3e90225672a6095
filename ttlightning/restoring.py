"""Lightning's restoring of a checkpoint: where the file does not fit, one line that says so."""

import contextlib
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.exceptions import MisconfigurationException

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
