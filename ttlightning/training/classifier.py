r"""The LightningModule: patches -> features -> scores -> cross-entropy.

score_y(x_1, ..., x_d) = < W_y, f(x_1) o f(x_2) o ... o f(x_d) >                       [K18, Sec. 2]
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Real
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ttlightning.data.sampler import Batch, Shard
from ttlightning.errors import Fault, UserError
from ttlightning.formats import EqualCoreTensorTrain, ScoreTensor
from ttlightning.formats.kernels.scales import below_the_largest
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.randomness import keep_mask, keyed_global_generator
from ttlightning.runs.checkpoints import NETWORK_KEY, STEPS_KEY, SUMS_KEY
from ttlightning.runs.trained_formats import describe_format
from ttlightning.training.metrics import LossAndAccuracy
from ttlightning.training.steps import steps_of_a_run, who_looks_at_steps, who_looks_at_the_backward_pass

Stage = Literal["train", "val", "test"]

FOLLOWS_A_METRIC: Final = (
    "model.scheduler is ReduceLROnPlateau, which follows a metric that checkpoints do not hold: use a schedule of "
    "steps or epochs, such as OneCycleLR, CosineAnnealingLR or ExponentialLR"
)

Seen = tuple[Tensor, Tensor, Tensor]
"""Of one batch: the sum of its losses, its scores, its labels."""

# Factories, for injection from a configuration: the arguments in brackets are filled in here, the others there.
FeatureMapFactory = Callable[[int], PatchFeatureMap]  # (patch_dim)
ScoreTensorFactory = Callable[[int, int, int], ScoreTensor]  # (sites, modes, classes)
OptimizerFactory = Callable[[Any], Optimizer]  # (parameters)
SchedulerFactory = Callable[[Optimizer], LRScheduler]  # (optimizer)


class Classifier(LightningModule):
    r"""A network whose weight tensor is in a tensor format, trained by cross-entropy.

    Args:
        sites: d, patches per image (from the data).
        patch_dim: length of a vectorised patch (from the data).
        classes: number of classes (from the data).
        features: makes the feature map from ``patch_dim``.
        format: makes the weight tensor from ``sites``, ``mode_size`` (of the feature map) and ``classes``.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate schedule from the optimizer; an argument ``total_steps`` that is left
            ``None`` is filled in with the optimizer steps of the whole run.
        scheduler_interval: whether the schedule moves every ``step`` or every ``epoch``.
        patch_dropout: probability with which a whole patch is blanked during training [K18, Sec. 6.2 keeps 0.8].
        pixel_mean: grey that is subtracted from pixels in [0, 1], and that a blanked patch has. A feature map's b can
            undo it, so it changes how training goes and not what can be said.
        steps_per_execution: most optimizer steps in one call of ``training_step``, as many as the data puts into a
            call. From two on, the steps are made here and not by Lightning (manual optimization); where anything looks
            at single steps or at the backward pass, ``setup`` sets it to 1, here and in the data.
        microbatches: V > 1 sums the gradient over V fixed slices of the global batch in a fixed order, so that every
            number of devices that divides V trains the same network to the bit.
        seed: key of the initialization and of the dropout masks.

    Raises:
        UserError: where a size or a probability is out of range.
    """

    def __init__(
        self,
        sites: int,
        patch_dim: int,
        classes: int,
        features: FeatureMapFactory = PatchFeatureMap,
        format: ScoreTensorFactory = EqualCoreTensorTrain,
        optimizer: OptimizerFactory = torch.optim.Adam,
        scheduler: SchedulerFactory | None = None,
        scheduler_interval: Literal["step", "epoch"] = "step",
        patch_dropout: float = 0.0,
        pixel_mean: float = 0.0,
        steps_per_execution: int = 1,
        microbatches: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= patch_dropout < 1:
            raise UserError(f"model.patch_dropout is {patch_dropout}, it must be at least 0 and below 1")
        if ReduceLROnPlateau in (scheduler, getattr(scheduler, "func", None), *getattr(scheduler, "args", ())):
            raise UserError(FOLLOWS_A_METRIC)
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.patch_dropout, self.pixel_mean, self.seed = patch_dropout, pixel_mean, seed
        self.steps_per_execution, self.microbatches = steps_per_execution, microbatches
        self.automatic_optimization = steps_per_execution == microbatches == 1
        self.looks_at_steps: str | None = None
        """what made ``setup`` set steps_per_execution to 1"""
        with keyed_global_generator(seed, "initialization"):
            self.features = features(patch_dim)
            self.format = format(sites, self.features.mode_size, classes)
        self.metrics = nn.ModuleDict({f"{stage}_metrics": LossAndAccuracy() for stage in get_args(Stage)})

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes the hook that runs some twenty times a step; torch's look at every attribute is long."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.datamodule is not None:
            self.choose_steps(self.trainer, self.trainer.datamodule)

    def choose_steps(self, trainer: Trainer, data: LightningDataModule) -> None:
        """Let many steps share a call, or, where anything looks at single ones, make each by itself.

        Raises:
            UserError: where something needs Lightning's own backward pass and ``microbatches`` replaces it.
        """
        if self.microbatches > 1 and (name := who_looks_at_the_backward_pass(trainer)):
            raise UserError(
                f"{name} needs the backward pass that Lightning makes, and data.microbatches is "
                f"{self.microbatches}, which makes its own: set --data.microbatches 1"
            )
        if self.steps_per_execution > 1 and (name := who_looks_at_steps(trainer, self, data)):
            self.looks_at_steps = name
            self.steps_per_execution = data.steps_per_execution = 1
            self.automatic_optimization = self.microbatches == 1

    def forward(
        self,
        patches: Real[Tensor, "batch sites patch_dim"],
        keep: Bool[Tensor, "batch sites"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Scores of all classes; uint8 pixels become [0, 1], floats stay; patches where ``keep`` is False are blank."""
        return self.format(self._features_of(patches, keep))

    def _features_of(self, patches: Tensor, keep: Tensor | None = None) -> Float[Tensor, "batch sites modes"]:
        pixels = patches.to(self.dtype) * (1.0 if patches.is_floating_point() else 1 / 255) - self.pixel_mean
        if keep is not None:
            pixels = pixels * keep.unsqueeze(-1)
        return self.features(pixels)

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor | None:
        """The loss of a batch; or, where the steps are made here, all steps of a call."""
        if self.automatic_optimization:
            self._check_place(batch, batch_idx)
            loss, seen = self._training_loss(batch)
            self.metrics["train_metrics"].update(*seen)
            return loss
        backward = self._backward if self.microbatches == 1 else self._backward_in_slices
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        all_seen = []
        parts = [batch] if isinstance(batch, Batch) else batch
        for step, part in enumerate(parts, start=batch_idx * self.steps_per_execution):
            if self.trainer.global_step == self.trainer.max_steps:
                break
            self._check_place(part, step)
            optimizer.zero_grad()
            all_seen += backward(part)
            optimizer.step()
            if scheduler is not None and self.scheduler_interval == "step":
                scheduler.step()
        if all_seen:
            losses, scores, labels = zip(*all_seen, strict=True)
            self.metrics["train_metrics"].update(
                torch.stack(losses).double().sum(), torch.cat(scores), torch.cat(labels)
            )
        return None

    def _check_place(self, batch: Batch, step: int) -> None:
        """That the data and the trainer are at the same place: not so, a resumed run would train on other batches."""
        if (batch.epoch, batch.step) != (self.current_epoch, step):
            raise Fault(
                f"batch {batch.step + 1} of epoch {batch.epoch + 1} came at step {step + 1} of epoch "
                f"{self.current_epoch + 1}: something made the data loader before the checkpoint's place was restored"
            )

    def _backward(self, batch: Batch) -> list[Seen]:
        loss, seen = self._training_loss(batch)
        if self.trainer.world_size == 1 and type(self.trainer.precision_plugin) is Precision:
            loss.backward()  # all that Lightning's own would do, but for hooks of every callback at every step
        else:
            self.manual_backward(loss)
        return [seen]

    def _backward_in_slices(self, batch: Batch) -> list[Seen]:
        """The same gradient, whatever the number of devices: V slices, each by itself, and their sum as a binary tree.

        grad = (1 / B) sum_v grad_v,   v = 1, ..., V,   added as ((1 + 2) + (3 + 4)) + ...
        """
        own = self.microbatches // self.trainer.world_size
        first = own * self.trainer.global_rank
        parameters, rows, all_seen = list(self.parameters()), [], []
        for device in range(first, first + own):
            losses, seen = self._losses(batch.slice_of(Shard(device, self.microbatches)))
            gradients = torch.autograd.grad(losses / batch.global_size, parameters)
            rows.append(torch.cat([losses.detach().reshape(1), *(g.reshape(-1) for g in gradients)]))
            all_seen.append(seen)
        table = torch.stack(rows)
        if self.trainer.world_size > 1:
            table = self.all_gather(table).flatten(0, 1)
        while len(table) > 1:
            table = table[0::2] + table[1::2]
        loss, *gradients = table[0].split([1, *(p.numel() for p in parameters)])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        self._log_now_and_then(loss[0] / batch.global_size)
        return all_seen

    def _training_loss(self, batch: Batch) -> tuple[Tensor, Seen]:
        """This device's part of the mean loss over the global batch, and what the metrics want of it."""
        losses, seen = self._losses(batch)
        # Devices average their gradients; each takes its share of the mean over the global batch.
        loss = losses * (self.trainer.world_size / batch.global_size)
        self._log_now_and_then(loss.detach())
        return loss, seen

    def _losses(self, batch: Batch) -> tuple[Tensor, Seen]:
        """The sum of the samples' losses."""
        scores = self(batch.patches, self._keep(batch))
        losses = F.cross_entropy(scores, batch.labels, reduction="sum")
        return losses, (losses.detach(), scores.detach(), batch.labels)

    def _log_now_and_then(self, loss: Tensor) -> None:
        every = self.trainer.log_every_n_steps
        if every and (self.trainer.global_step + 1) % every == 0:
            self._log_step(loss)

    def _log_step(self, loss: Tensor) -> None:
        """Loss and learning rate of this step."""
        loss = float(self.trainer.strategy.reduce(loss, reduce_op="mean"))
        self._check_finite(loss)
        rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]
        self._record({"epoch": self.current_epoch, "train/loss_step": loss, "lr": rate})

    def _record(self, found: dict[str, float]) -> None:
        """Straight to the loggers: Lightning's own way counts calls, and comes after the epoch's checkpoint."""
        for logger in self.trainer.loggers:
            logger.log_metrics(found, step=self.trainer.global_step)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Fault(
                f"the training loss is {loss} by step {self.trainer.global_step} of epoch {self.current_epoch + 1}: "
                "try a smaller model.optimizer.lr"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, "batch classes"]:
        """By how much every score lies below the sample's largest, for callbacks."""
        return self._evaluate("test", batch)

    def on_train_epoch_end(self) -> None:
        self._check_finite(float(self._log("train")["train/loss"]))
        if not self.automatic_optimization and self.scheduler is not None and self.scheduler_interval == "epoch":
            self.lr_schedulers().step()

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Class probabilities (batch, classes), and the class with the highest score (batch), also of equal ones.

        Raises:
            Fault: where a score is not a number, or inf.
        """
        scores = self._below_the_largest(batch)
        if lost := int(scores.isnan().any(1).sum()):
            raise Fault(
                f"scores of {lost} of the {len(scores)} samples of a batch are not finite: nothing is predicted"
            )
        return scores.softmax(-1), scores.argmax(-1)

    def _below_the_largest(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """How far every score lies below its sample's largest: all that loss and prediction want, in any range."""
        features = self._features_of(batch.patches)
        self.format._check(features)
        return below_the_largest(*self.format.scaled_scores(features))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what network this is, for those who read the weights without building it; keep the epoch's sums."""
        if not all(p.isfinite().all() for p in self.parameters()):
            raise Fault(f"weights are no longer finite at step {self.trainer.global_step}: they are not saved")
        checkpoint[STEPS_KEY] = self.steps_per_execution
        checkpoint[SUMS_KEY] = self.all_gather(self.metrics["train_metrics"].sums()).reshape(-1, 3).cpu()
        checkpoint[NETWORK_KEY] = describe_format(self.format)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of an epoch that is half done: each process with its own, where there are as many."""
        sums = checkpoint.get(SUMS_KEY)
        if sums is None:
            return
        rank, world = self.trainer.global_rank, self.trainer.world_size
        mine = sums[rank] if len(sums) == world else sums.sum(0) * (rank == 0)
        self.metrics["train_metrics"].start_from(mine)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self.optimizer(self.parameters())
        except (TypeError, ValueError) as fault:
            raise UserError(f"model.optimizer cannot be made: {fault}") from fault
        if self.scheduler is None:
            return optimizer
        complete = self._complete(self.scheduler)
        try:
            scheduler = complete(optimizer)
        except (TypeError, ValueError, AttributeError) as fault:
            raise UserError(f"model.scheduler cannot be made: {fault}") from fault
        self._check_length(scheduler)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(FOLLOWS_A_METRIC)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval},
        }

    def _check_length(self, scheduler: LRScheduler) -> None:
        """Raise ``UserError`` where a schedule ends before the run does: it would stop the run in its middle."""
        steps, data = getattr(scheduler, "total_steps", None), self.trainer.datamodule
        if steps is None or data is None:
            return
        asked = self.trainer.max_epochs
        if self.scheduler_interval == "step":
            asked = steps_of_a_run(self.trainer, data.batches)
        if asked is not None and asked > steps:
            raise UserError(
                f"model.scheduler has total_steps {steps} and the run makes {asked} {self.scheduler_interval}s: "
                "leave total_steps null, or ask for as many"
            )

    def _complete(self, scheduler: SchedulerFactory) -> SchedulerFactory:
        """Fill in ``total_steps`` where the schedule has such an argument and nobody has set it."""
        if not isinstance(scheduler, partial) or scheduler.keywords.get("total_steps", 0) is not None:
            return scheduler
        if self.scheduler_interval == "epoch":
            return partial(scheduler, total_steps=self.trainer.max_epochs or 0)
        data = self.trainer.datamodule
        steps = self.trainer.estimated_stepping_batches if data is None else steps_of_a_run(self.trainer, data.batches)
        return partial(scheduler, total_steps=steps)

    def _keep(self, batch: Batch) -> Bool[Tensor, "batch sites"] | None:
        """This device's rows of the dropout mask of the global batch."""
        if self.patch_dropout == 0:
            return None
        mask = keep_mask(batch.global_size, self.format.sites, self.patch_dropout, self.seed, batch.epoch, batch.step)
        return mask[batch.start : batch.start + len(batch.labels)].to(batch.patches.device)

    def _evaluate(self, stage: Stage, batch: Batch) -> Float[Tensor, "batch classes"]:
        scores, labels = self._below_the_largest(batch), batch.labels
        losses = F.cross_entropy(scores, labels, reduction="sum")
        lost = ~scores.gather(1, labels.unsqueeze(1)).isfinite()
        self.metrics[f"{stage}_metrics"].update(losses, scores, labels, lost.sum())
        return scores

    def _log(self, stage: Stage) -> dict[str, Tensor]:
        """The values of an epoch, the same on every device: those of training go to the loggers here, see _record."""
        metrics = self.metrics[f"{stage}_metrics"]
        found = {f"{stage}/{name}": value for name, value in metrics.compute().items()}
        metrics.reset()
        if lost := int(found.pop(f"{stage}/lost")):
            raise Fault(
                f"{stage}/loss is {float(found[f'{stage}/loss'])}, scores of {lost} samples are out of range by step "
                f"{self.trainer.global_step}: try a smaller model.optimizer.lr"
            )
        if self.trainer.state.fn != TrainerFn.FITTING:  # Lightning prints what loggers get, and takes its step there
            self.log_dict(found | {"epoch": float(self.current_epoch), "step": float(self.trainer.global_step)})
            return found
        # Without epoch and step among them: every ModelCheckpoint would name all its later files after these.
        self.log_dict(found, logger=False)
        if not self.trainer.sanity_checking:
            epoch = self.current_epoch if stage == "train" else float(self.current_epoch)
            self._record({"epoch": epoch} | {name: float(value) for name, value in found.items()})
        return found
