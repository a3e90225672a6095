r"""Mean loss and accuracy over an epoch, exact for all batch sizes and numbers of devices.

    loss = (sum of the samples' losses) / samples,    acc = (samples whose highest score is their label's) / samples

The state is four sums, which are added over devices. An update never waits for the device.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class Outcome(NamedTuple):
    """Input of the metric from one batch."""

    losses: Float[Tensor, ""]
    """Sum of the samples' losses."""
    scores: Float[Tensor, "batch classes"]
    labels: Int[Tensor, " batch"]


class LossAndAccuracy(Metric):
    """Metric with the values ``loss``, ``acc`` and ``lost``, the number of samples without a finite loss."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for count in ("correct", "samples", "lost"):
            self.add_state(count, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        losses: Float[Tensor, ""],
        scores: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"],
        lost: Int[Tensor, ""] | int = 0,
    ) -> None:
        """Add a batch: sum of its losses, scores, labels, and number of samples without a finite loss."""
        self.losses += losses
        self.correct += (scores.argmax(-1) == labels).sum()
        self.samples += len(labels)
        self.lost += lost

    def compute(self) -> dict[str, Tensor]:
        accuracy = self.correct.double() / self.samples
        return {"loss": (self.losses / self.samples).float(), "acc": accuracy, "lost": self.lost}

    def sums(self) -> Float[Tensor, "3"]:
        """Losses, correct and samples of this process so far, as float64: exact up to 2^53 samples."""
        return torch.stack([self.losses, self.correct.double(), self.samples.double()])

    def start_from(self, sums: Float[Tensor, "3"]) -> None:
        """Continue from ``sums``."""
        losses, correct, samples = sums.to(self.losses)
        self.losses, self.correct, self.samples = losses.clone(), correct.to(torch.int64), samples.to(torch.int64)
