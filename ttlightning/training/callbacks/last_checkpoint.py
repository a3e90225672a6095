"""The run's last checkpoint: a stopped run goes on from it to the same bits.

It is written at the end of every epoch, every so many steps if asked, and when the run is asked to stop: a signal ends
training after the current call, see ``ttlightning.system.signals``.
"""

import signal
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ttlightning.errors import Stopped, UserError
from ttlightning.runs.checkpoints import read_checkpoint, weights_sha256
from ttlightning.runs.run import Run
from ttlightning.system import signals
from ttlightning.training.steps import is_whole_step, who_begins_epochs
from ttlightning.training.trainer import run_of


class LastCheckpoint(Checkpoint):
    """Write the checkpoint from which a stopped run goes on.

    Args:
        every_n_steps: optimizer steps between two checkpoints within an epoch, counted at the end of a call of
            ``data.steps_per_execution``; by default only the ends of epochs have one.

    Raises:
        UserError: where ``every_n_steps`` is below 1; at the start of training, where a callback does something at the
            start of epochs, so that a run cannot go on within one.
    """

    looks_at_steps = False  # a call of many steps is one to it

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"last_checkpoint.every_n_steps is {every_n_steps}, it must be at least 1, or null")
        self.every_n_steps = every_n_steps
        self.is_written = True
        """False with ``trainer.enable_checkpointing false``: the callback still stops a run after a whole step."""
        self._saved_at = 0
        self._begins_epochs: str | None = None
        self._listens = False
        self._holds = False

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
        self._listens = signals.listen()  # not where main does already
        self._holds = True
        signals.hold("after this step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self._asked_anywhere(trainer)
        if trainer.is_last_batch or not is_whole_step(trainer, batch_idx):
            return  # the end of the epoch has a checkpoint with everything in it
        due = self.every_n_steps is not None and trainer.global_step - self._saved_at >= self.every_n_steps
        if self._begins_epochs is None and (asked or due):
            self._save(trainer)
        self._stop_if(asked, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._stop_if(self._asked_anywhere(trainer), trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        asked = self._asked_anywhere(trainer)
        self._release()
        if asked:
            raise Stopped(asked, "after training, with a checkpoint" if self._run_of(trainer) else "after training")
        signals.check()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save again where a callback has changed the weights after the last epoch: the run's are those of its file."""
        run = self._run_of(trainer)
        if run is not None and trainer.strategy.broadcast(trainer.is_global_zero and _is_behind(run, pl_module)):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped) and not self._holds and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # outside training the other ranks have not agreed to stop
        self._release()

    def _save(self, trainer: Trainer) -> None:
        self._saved_at = trainer.global_step
        if (run := self._run_of(trainer)) is not None:
            trainer.save_checkpoint(run.checkpoint)

    def _asked_anywhere(self, trainer: Trainer) -> signal.Signals | None:
        """The signal that any process was sent: all processes stop after the same step."""
        asked = signals.asked()
        if trainer.world_size == 1:
            return asked
        if not trainer.strategy.reduce_boolean_decision(asked is not None, all=False):
            return None  # this process's, if it has come since they agreed, is seen after the next step
        return asked or signal.SIGTERM

    def _stop_if(self, asked: signal.Signals | None, trainer: Trainer) -> None:
        if asked is None:
            return
        kept = ", with a checkpoint" if self._begins_epochs is None else ", with that of the last epoch's end, if any"
        where = f"after step {trainer.global_step} of epoch {trainer.current_epoch + 1}"
        raise Stopped(asked, where + (kept if self._run_of(trainer) is not None else ""))

    def _run_of(self, trainer: Trainer) -> Run | None:
        """The run whose checkpoint this is; None if nothing is written."""
        return run_of(trainer) if self.is_written else None

    def _release(self) -> None:
        if self._holds:
            signals.release()
        if self._listens:
            signals.close()
        self._holds = self._listens = False


def _is_behind(run: Run, pl_module: LightningModule) -> bool:
    """Whether the run's last checkpoint has other weights than the network, or does not exist."""
    return not run.checkpoint.exists() or (
        weights_sha256(read_checkpoint(run.checkpoint)["state_dict"]) != weights_sha256(pl_module.state_dict())
    )
