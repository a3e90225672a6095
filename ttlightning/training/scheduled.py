"""The optimizer and the learning-rate schedule of a network in Lightning's hooks."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from ttlightning.training import optimizers


class Scheduled(LightningModule):
    """The part of ``Classifier`` that makes its optimizer and advances its schedule."""

    optimizer: optimizers.OptimizerFactory
    scheduler: optimizers.SchedulerFactory | None
    scheduler_interval: optimizers.Interval

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = optimizers.make("optimizer", self.optimizer, trained)
        if self.scheduler is None:
            return optimizer
        schedule = optimizers.make_schedule(self.scheduler, optimizer, self.scheduler_interval, self.trainer)
        entry = {"scheduler": schedule, "interval": self.scheduler_interval}
        if optimizers.follows_metric(schedule):
            name = self._metric_of(schedule)
            if self.automatic_optimization:
                entry |= {"monitor": name, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Advance a schedule of steps or epochs.

        ``on_train_epoch_end`` advances one that follows a metric: here it would be after the epoch's checkpoint.
        """
        if not optimizers.follows_metric(scheduler):
            super().lr_scheduler_step(scheduler, metric)

    def _metric_of(self, schedule: Any) -> str:
        is_validated = self.trainer.enable_validation
        if (asks := getattr(self.trainer.datamodule, "has_validation", None)) is not None:
            is_validated &= asks()
        name = optimizers.metric_of(schedule, is_validated)
        optimizers.check_metric(name, is_validated)
        return name

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer, and the peak of a schedule that has one, such as OneCycleLR.

        ``LearningRateFinder`` and ``Tuner.lr_find`` set it.
        """
        peak = getattr(self.scheduler, "keywords", {}).get("max_lr")
        return float(peak) if isinstance(peak, int | float) else optimizers.learning_rate(self.optimizer)

    @lr.setter
    def lr(self, rate: float) -> None:
        self.optimizer = optimizers.with_argument(self.optimizer, "lr", rate)
        self.scheduler = self.scheduler and optimizers.with_argument(self.scheduler, "max_lr", rate)

    def end_epoch_of_schedule(self, values: Mapping[str, float]) -> None:
        """Advance a schedule that follows a metric; and in manual optimization one that counts epochs.

        ``values`` are losses and accuracies of the epoch.
        """
        if self.scheduler is None or self.scheduler_interval != "epoch":
            return
        schedule = self.lr_schedulers()
        if optimizers.follows_metric(schedule):
            optimizers.follow(schedule, self._metric_of(schedule), values, self.trainer.callback_metrics)
        elif not self.automatic_optimization:
            schedule.step()
