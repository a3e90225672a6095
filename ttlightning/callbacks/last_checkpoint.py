"""checkpoints/last.ckpt: from which a run goes on to the same bits, whatever stopped it.

It is written at the end of every epoch, every so many steps if asked, and when the run is asked to stop: SIGINT
(Ctrl-C) and SIGTERM end the run after the call that is under way; a second one ends it at once.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ttlightning.checkpoints import read_checkpoint
from ttlightning.errors import Stopped, UserError
from ttlightning.runs import weights_sha256
from ttlightning.steps import is_whole_step, who_begins_epochs

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LastCheckpoint(Checkpoint):
    """Write the checkpoint from which a stopped run goes on.

    Args:
        every_n_steps: optimizer steps between two checkpoints within an epoch, counted at the end of a call of
            ``data.steps_per_call``; by default only the ends of epochs have one.

    Raises:
        UserError: where ``every_n_steps`` is below 1; at the start of training, where a callback does something at the
            start of epochs, so that a run cannot go on within one.
    """

    looks_at_steps = False  # a call of many steps is one to it

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"last_checkpoint.every_n_steps is {every_n_steps}, it must be at least 1, or null")
        self.every_n_steps = every_n_steps
        self.file: Path | None = None
        self._saved_at = 0
        self._begins_epochs: str | None = None
        self._asked: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether a run can go on within an epoch."""
        self._begins_epochs = who_begins_epochs(trainer, pl_module)
        if self._begins_epochs is not None and self.every_n_steps is not None:
            raise UserError(
                f"last_checkpoint.every_n_steps is {self.every_n_steps}, but {self._begins_epochs} acts when an epoch "
                "starts, so that a run can go on from the ends of epochs only: set --last_checkpoint.every_n_steps null"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step
        self.check(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self._asked_anywhere(trainer)
        if trainer.is_last_batch or not is_whole_step(trainer, batch_idx):
            return  # the end of the epoch has a checkpoint with everything in it
        if self._begins_epochs is not None:
            if asked:
                self._stop(trainer, asked)
            return
        due = self.every_n_steps is not None and trainer.global_step - self._saved_at >= self.every_n_steps
        if asked or due:
            self._save(trainer)
        if asked:
            self._stop(trainer, asked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if asked := self._asked_anywhere(trainer):
            self._stop(trainer, asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save again where a callback has changed the weights after the last epoch: the run's are those of its file."""
        if self.file is None:
            return
        if trainer.strategy.broadcast(trainer.is_global_zero and self._is_behind(pl_module)):
            self._save(trainer)

    def _is_behind(self, pl_module: LightningModule) -> bool:
        """Whether the file has other weights than the network, or is not there."""
        if not self.file.exists():
            return True
        kept = weights_sha256(read_checkpoint(self.file)["state_dict"])
        return kept != weights_sha256(pl_module.state_dict())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _save(self, trainer: Trainer) -> None:
        self._saved_at = trainer.global_step
        if self.file is not None:
            trainer.save_checkpoint(self.file)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = signal.Signals(number)
        signal.signal(number, self._handlers[self._asked])
        os.write(2, f"ttlightning: {self._asked.name}: stopping after this step; once more stops at once\n".encode())

    def _asked_anywhere(self, trainer: Trainer) -> signal.Signals | None:
        """The signal that this or another process has been sent: all of them stop after the same step."""
        if trainer.world_size == 1:
            return self._asked
        anywhere = trainer.strategy.reduce_boolean_decision(self._asked is not None, all=False)
        return self._asked or (signal.SIGTERM if anywhere else None)

    def _stop(self, trainer: Trainer, asked: signal.Signals) -> None:
        raise Stopped(asked, f"after step {trainer.global_step} of epoch {trainer.current_epoch + 1}")

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
