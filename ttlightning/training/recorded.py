"""What a network logs: losses and accuracies of epochs, loss and learning rate of steps."""

import math
from typing import Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ttlightning.errors import Fault

Stage = Literal["train", "val", "test"]


class Recorded(LightningModule):
    """The part of ``Classifier`` that logs."""

    metrics: nn.ModuleDict
    """``LossAndAccuracy`` of each stage"""
    _epoch_values: dict[str, float]
    _is_repeated: bool

    def _log_epoch(self, stage: Stage) -> dict[str, Tensor]:
        """Log an epoch's loss and accuracy, which are the same on every device, and reset them."""
        metrics = self.metrics[f"{stage}_metrics"]
        values = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        metrics.reset()
        if lost := int(values.pop(f"{stage}/lost")):
            raise Fault(
                f"{stage}/loss is {float(values[f'{stage}/loss'])}, scores of {lost} samples are out of range by step "
                f"{self.trainer.global_step}: try a smaller model.optimizer.lr"
            )
        if self.trainer.state.fn != TrainerFn.FITTING:  # Lightning prints these values, and reads its step there
            self.log_dict(values | {"epoch": float(self.current_epoch), "step": float(self.trainer.global_step)})
            return values
        if not self.trainer.barebones:
            # Without epoch and step: every ModelCheckpoint would name its later files by them.
            self.log_dict(values, logger=False)
        if not self.trainer.sanity_checking:
            self._epoch_values |= {name: float(value) for name, value in values.items()}
            epoch = self.current_epoch if stage == "train" else float(self.current_epoch)
            self._write({"epoch": epoch} | {name: self._epoch_values[name] for name in values})
        return values

    def log_step(self, loss: Tensor) -> None:
        """Log loss and learning rate, every ``trainer.log_every_n_steps`` optimizer steps."""
        every = self.trainer.log_every_n_steps
        if not every or self._is_repeated or (self.trainer.global_step + 1) % every:
            return
        mean = float(self.trainer.strategy.reduce(loss, reduce_op="mean"))
        self._check_finite(mean)
        rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]
        self._write({"epoch": self.current_epoch, "train/loss_step": mean, "lr": rate})

    def _write(self, values: dict[str, float]) -> None:
        """Write to the loggers directly: ``self.log`` counts calls, and writes after the epoch's checkpoint."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Fault(
                f"the training loss is {loss} by step {self.trainer.global_step} of epoch {self.current_epoch + 1}: "
                "try a smaller model.optimizer.lr"
            )
