"""checkpoints/last.ckpt: from which a run goes on to the same bits, whatever stopped it.

It is written at the end of every epoch, every so many steps if asked, and when the run is asked to stop: a signal ends
training after the call that is under way, see ``ttlightning.signals``.
"""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ttlightning import signals
from ttlightning.errors import Stopped, UserError


class LastCheckpoint(Checkpoint):
    """Write the checkpoint from which a stopped run goes on.

    Args:
        every_n_steps: optimizer steps between two checkpoints within an epoch, counted at the end of a call of
            ``data.steps_per_call``; by default only the ends of epochs have one.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"last_checkpoint.every_n_steps is {every_n_steps}, it must be at least 1, or null")
        self.every_n_steps = every_n_steps
        self.file: Path | None = None
        self._saved_at = 0
        self._listens = False
        self._holds = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step
        self._listens = signals.listen()  # not where main does already
        self._holds = True
        signals.hold("after this step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self._asked_anywhere(trainer)
        if trainer.is_last_batch:  # the end of the epoch has one with everything in it
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
        asked = self._asked_anywhere(trainer)
        self._release()
        if asked:
            raise Stopped(asked, "after training, with a checkpoint" if self.file else "after training")
        signals.check()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped) and not self._holds and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # outside training the other ranks have not agreed to stop
        self._release()

    def _save(self, trainer: Trainer) -> None:
        self._saved_at = trainer.global_step
        if self.file is not None:
            trainer.save_checkpoint(self.file)

    def _asked_anywhere(self, trainer: Trainer) -> signal.Signals | None:
        """The signal that this or another process has been sent: all of them stop after the same step."""
        asked = signals.asked()
        if trainer.world_size == 1:
            return asked
        anywhere = trainer.strategy.reduce_boolean_decision(asked is not None, all=False)
        if not anywhere:
            return None  # this process's, if it has come since they agreed, is seen after the next step
        return asked or signal.SIGTERM

    def _stop(self, trainer: Trainer, asked: signal.Signals) -> None:
        kept = ", with a checkpoint" if self.file is not None else ""
        raise Stopped(asked, f"after step {trainer.global_step} of epoch {trainer.current_epoch + 1}{kept}")

    def _release(self) -> None:
        if self._holds:
            signals.release()
        if self._listens:
            signals.close()
        self._holds = self._listens = False
