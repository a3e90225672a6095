"""How many threads a fit on a CPU has."""

import os

import torch
from lightning.pytorch import Trainer

from ttlightning.formats.kernels.dispatch import ARITHMETIC_FOR_THREADS
from ttlightning.training.classifier import Classifier
from ttlightning.training.datamodule import PatchDataModule


def choose_threads(trainer: Trainer, model: Classifier, datamodule: PatchDataModule) -> None:
    """One thread on a CPU, where the user has chosen none and one pass is too small to share between threads."""
    format, on_cpu = model.format, trainer.strategy.root_device.type == "cpu"
    parts = datamodule.microbatches
    batch = datamodule.batch_size // max(parts, trainer.world_size)
    arithmetic = batch * format.sites * format.mode_size * format.rank**2
    if on_cpu and "OMP_NUM_THREADS" not in os.environ and (parts > 1 or arithmetic < ARITHMETIC_FOR_THREADS):
        torch.set_num_threads(1)
