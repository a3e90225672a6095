r"""The LightningModule: the network, its loss, its metrics, its optimizer.

loss = (1 / B) sum_b  -sum_y t_by log softmax(score(x_b))[y]     over the global batch of B samples,
t_by = (1 - s) [y = y_b] + s / C                                 s is the label smoothing, 0 if it is not asked for
"""

from typing import Any, get_args

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning.data.sampler import Batch
from ttlightning.errors import Fault, UserError
from ttlightning.formats import EqualCoreTensorTrain
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.networks.network import FeatureMapFactory, Keep, Network, ScoreFunctionFactory, Scores
from ttlightning.randomness import keep_mask, keyed_global_generator
from ttlightning.runs.checkpoints import CONFIG_KEY, NETWORK_KEY, STEPS_KEY, SUMS_KEY, VALUES_KEY
from ttlightning.runs.trained_formats import describe_format
from ttlightning.training import microbatches as parts
from ttlightning.training import optimizers
from ttlightning.training.batches import as_batches
from ttlightning.training.descriptions import add_arguments
from ttlightning.training.for_images import ForImages
from ttlightning.training.from_checkpoint import ClassifierFromCheckpoint
from ttlightning.training.manual_optimization import make_steps
from ttlightning.training.metrics import LossAndAccuracy, Outcome
from ttlightning.training.recorded import Recorded, Stage
from ttlightning.training.scheduled import Scheduled
from ttlightning.training.steps import who_looks_at_steps


class Classifier(ClassifierFromCheckpoint, ForImages, Scheduled, Recorded, Network, LightningModule):
    r"""A ``Network`` trained by cross-entropy.

    Args:
        sites: d, patches per image (from the data).
        patch_dim: length of a vectorised patch (from the data).
        classes: number of classes (from the data).
        features: factory of the feature map, with the argument ``patch_dim``.
        format: factory of the weight tensor, or of a baseline of ``networks/baselines.py``, with the arguments
            ``sites``, ``mode_size`` and ``classes``.
        optimizer: factory of the optimizer, with the parameters.
        scheduler: factory of the learning-rate schedule, with the optimizer; ``total_steps=None`` becomes the number of
            optimizer steps of the run.
        scheduler_interval: whether the schedule advances every ``step`` or every ``epoch``.
        patch_dropout: probability that a patch is replaced by ``pixel_mean`` in training [K18, Sec. 6.2 keeps 0.8].
        label_smoothing: s, the share of each training label that is spread over all classes. Losses of validation and
            test are without it.
        pixel_mean: grey value subtracted from pixels in [0, 1]. The bias of the feature map can undo it: it changes
            training and not the functions that the network can represent.
        steps_per_execution: most optimizer steps in one call of ``training_step``; above 1 by manual optimization. If
            a callback or an option observes single steps, ``setup`` sets it to 1, here and in the data.
        microbatches: V > 1 adds the gradients of V slices of the global batch in a fixed order. Every number of devices
            that divides V then trains the same network to the bit.
        seed: key of the initialization and of the dropout masks.

    Raises:
        UserError: a size or a probability out of range.
    """

    def __init__(
        self,
        sites: int,
        patch_dim: int,
        classes: int,
        features: FeatureMapFactory = PatchFeatureMap,
        format: ScoreFunctionFactory = EqualCoreTensorTrain,
        optimizer: optimizers.OptimizerFactory = torch.optim.Adam,
        scheduler: optimizers.SchedulerFactory | None = None,
        scheduler_interval: optimizers.Interval = "step",
        patch_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        pixel_mean: float = 0.0,
        steps_per_execution: int = 1,
        microbatches: int = 1,
        seed: int = 0,
    ) -> None:
        if not 0 <= patch_dropout < 1:
            raise UserError(f"model.patch_dropout is {patch_dropout}, it must be at least 0 and below 1")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}, it must be at least 0 and below 1")
        optimizers.check_interval(scheduler, scheduler_interval)
        with keyed_global_generator(seed, "initialization"):
            feature_map = features(patch_dim)
            super().__init__(feature_map, format(sites, feature_map.mode_size, classes), pixel_mean)
        self.patch_dim = patch_dim
        self.factories: dict[str, Any] = {"features": features, "format": format}
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.patch_dropout, self.label_smoothing, self.seed = patch_dropout, label_smoothing, seed
        self.steps_per_execution, self.microbatches = steps_per_execution, microbatches
        self.automatic_optimization = steps_per_execution == 1
        self._parts: parts.Parts | None = None
        self._batch, self._is_repeated = (-1, -1), False
        """Epoch and number of the last training batch; whether its loss is evaluated again, as by LBFGS."""
        self._epoch_values: dict[str, float] = {}
        """Losses and accuracies of this epoch."""
        self.looks_at_steps: str | None = None
        """Name of the observer that made ``setup`` set steps_per_execution to 1."""
        self.metrics = nn.ModuleDict({f"{stage}_metrics": LossAndAccuracy() for stage in get_args(Stage)})

    def setup(self, stage: str) -> None:
        self.take_images_of(self.trainer.datamodule)
        if stage == "fit" and self.trainer.datamodule is not None:
            self.choose_steps(self.trainer, self.trainer.datamodule)

    def choose_steps(self, trainer: Trainer, data: LightningDataModule) -> None:
        """Give each step its own call if a callback, an option or a hook observes single steps."""
        if self.steps_per_execution == 1:
            return
        closure = "model.optimizer" if optimizers.needs_closure(self.optimizer) else None
        self.looks_at_steps = closure or who_looks_at_steps(trainer, self, data, Classifier)
        if self.looks_at_steps is not None:
            self.steps_per_execution = data.steps_per_execution = 1
            self.automatic_optimization = True

    @property
    def backbone(self) -> nn.Module:
        """The feature map, which ``BackboneFinetuning`` freezes at first."""
        return self.features

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor | None:
        """The loss of one batch for automatic optimization, or all optimizer steps of this call."""
        batch = as_batches(self, batch, batch_idx, "train")
        if self.automatic_optimization:
            self.check_position(batch, batch_idx)
            self._is_repeated = self._batch == (self.current_epoch, batch_idx)
            self._batch = self.current_epoch, batch_idx
            loss, outcome = self.training_loss(batch)
            if not self._is_repeated:
                self.metrics["train_metrics"].update(*outcome)
            return loss
        batches = [batch] if isinstance(batch, Batch) else batch
        if outcomes := make_steps(self, batches, first_step=batch_idx * self.steps_per_execution):
            losses, scores, labels = zip(*outcomes, strict=True)
            total = torch.stack(losses).double().sum()
            self.metrics["train_metrics"].update(total, torch.cat(scores), torch.cat(labels))
        return None

    def check_position(self, batch: Batch, step: int) -> None:
        """Raise ``Fault`` if a batch does not belong to the trainer's epoch and step."""
        if (batch.epoch, batch.step) != (self.current_epoch, step):
            raise Fault(
                f"batch {batch.step + 1} of epoch {batch.epoch + 1} came at step {step + 1} of epoch "
                f"{self.current_epoch + 1}: the data loader was made before the checkpoint's position was restored"
            )

    def training_loss(self, batch: Batch) -> tuple[Tensor, Outcome]:
        """This device's share of the mean loss over the global batch, and the input of the metrics."""
        if self.microbatches > 1:
            loss, self._parts, outcome = parts.split_loss(self, batch)
            return loss, outcome
        losses, outcome = self._losses(batch)
        # DDP averages the gradients of W devices, so each device multiplies its share by W.
        loss = losses * (self.trainer.world_size / batch.global_size)
        self.log_step(loss.detach())
        return loss, outcome

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's backward pass; with microbatches, the sum of the parts' gradients in a fixed order."""
        if self._parts is None:
            super().backward(loss, *args, **kwargs)
        else:
            made, self._parts = self._parts, None
            parts.backward(self, loss, made)

    def _losses(self, batch: Batch) -> tuple[Tensor, Outcome]:
        """Sum of the samples' losses, and the input of the metrics."""
        scores = self(batch.patches, self._keep(batch), *([] if batch.lengths is None else [batch.lengths]))
        losses = F.cross_entropy(scores, batch.labels, reduction="sum", label_smoothing=self.label_smoothing)
        return losses, Outcome(losses.detach(), scores.detach(), batch.labels)

    def _keep(self, batch: Batch) -> Keep | None:
        """This device's rows of the dropout mask of the global batch; ``None`` without dropout."""
        if self.patch_dropout == 0:
            return None
        mask = keep_mask(batch.global_size, self.format.sites, self.patch_dropout, self.seed, batch.epoch, batch.step)
        mine = mask[batch.start : batch.start + len(batch.labels), : batch.pixels.shape[1]]
        return mine.to(batch.labels.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", as_batches(self, batch, batch_idx, "val"))

    def test_step(self, batch: Batch, batch_idx: int) -> Scores:
        """Each score minus the largest score of its sample, for callbacks."""
        return self._evaluate("test", as_batches(self, batch, batch_idx, "test"))

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Class probabilities (batch, classes), and the first class with the highest score (batch).

        A score that is NaN or inf is a ``Fault``.
        """
        batch = as_batches(self, batch, batch_idx, "predict")
        scores = self.finite_scores(batch.patches, batch.lengths)
        return scores.softmax(-1), scores.argmax(-1)

    def on_train_start(self) -> None:
        self._batch = (-1, -1)  # a finder trains several times

    def on_train_epoch_end(self) -> None:
        self._check_finite(float(self._log_epoch("train")["train/loss"]))
        values, self._epoch_values = self._epoch_values, {}
        self.end_epoch_of_schedule(values)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the format's name and sizes, and the sums of an unfinished epoch's metrics."""
        if not all(p.isfinite().all() for p in self.parameters()):
            raise Fault(f"weights are no longer finite at step {self.trainer.global_step}: they are not saved")
        checkpoint[VALUES_KEY] = dict(self._epoch_values)
        checkpoint[STEPS_KEY] = self.steps_per_execution
        checkpoint[SUMS_KEY] = self.all_gather(self.metrics["train_metrics"].sums()).reshape(-1, 3).cpu()
        checkpoint[NETWORK_KEY] = describe_format(self.format)
        if CONFIG_KEY not in checkpoint and not self.hparams:
            add_arguments(checkpoint, self, self.trainer.datamodule)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue an epoch's sums: each process its own, or rank 0 all if the number of processes has changed."""
        self._epoch_values = dict(checkpoint.get(VALUES_KEY, {}))
        if (sums := checkpoint.get(SUMS_KEY)) is None or self._trainer is None:
            return
        rank, world = self.trainer.global_rank, self.trainer.world_size
        mine = sums[rank] if len(sums) == world else sums.sum(0) * (rank == 0)
        self.metrics["train_metrics"].start_from(mine)

    def _evaluate(self, stage: Stage, batch: Batch) -> Scores:
        scores, labels = self.below_the_largest(batch.patches, batch.lengths), batch.labels
        losses = F.cross_entropy(scores, labels, reduction="sum")
        lost = ~scores.gather(1, labels.unsqueeze(1)).isfinite()
        self.metrics[f"{stage}_metrics"].update(losses, scores, labels, lost.sum())
        return scores
