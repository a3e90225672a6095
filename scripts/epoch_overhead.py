"""Time of an epoch of `fit` beside a bare PyTorch loop over the same network and the same batches.

    python scripts/epoch_overhead.py [--epochs 7] [--gpu_check] [any option of fit]

Before every epoch of a real `fit` (loggers, progress, rank check and checkpoints on), a bare loop runs the same epoch
on a copy of the network: forward, cross-entropy, backward, optimizer and schedule only. The two are interleaved, so
drifts of the machine's speed change both. Prints each epoch's ratio, their median and range.

--gpu_check: on a machine without a GPU, every second epoch runs with the variable that importing Lightning sets
(PYTORCH_NVML_BASED_CUDA_CHECK) and our Trainer removes; prints the cost of the variable.
"""

import argparse
import copy
import os
import platform
import statistics
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.nn import functional as F

from ttlightning.commands.cli import CLI, run
from ttlightning.system.output import run_script


class SideBySide(Checkpoint):
    """Times a bare epoch, then Lightning's; a checkpoint to Lightning, which calls those last."""

    def __init__(self, gpu_check: bool) -> None:
        self.gpu_check = gpu_check
        self.bare: list[float] = []
        self.fit: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.network = copy.deepcopy(pl_module)
        self.network.trainer = trainer
        configured = self.network.configure_optimizers()
        self.optimizer, self.schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        loader = trainer.datamodule.train_dataloader()
        for batch in getattr(loader, "batches", loader):
            scores = self.network(batch.patches, self.network._keep(batch))
            loss = F.cross_entropy(scores, batch.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        if self.gpu_check and trainer.current_epoch % 2:
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        self.started = time.perf_counter()
        self.bare.append(self.started - started)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit.append(time.perf_counter() - self.started)
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def watched_fit(watch: Callback, options: list[str]) -> None:
    """`fit` into a folder that is deleted, with ``watch`` as last callback, so that the work of all others counts."""

    class WatchedCLI(CLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(watch)
            return trainer

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TTLIGHTNING_RUNS"] = folder
        run(["fit", "--test_after_fit=false", *options], WatchedCLI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--config", default="eq.yaml")
    parser.add_argument("--gpu_check", action="store_true")
    options, overrides = parser.parse_known_args()
    watch = SideBySide(options.gpu_check)
    epochs = f"--trainer.max_epochs={options.epochs}"
    watched_fit(watch, ["--config", options.config, epochs, "--data.validation=0", *overrides])
    print(f"\n{options.config} on {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    times = list(zip(watch.fit, watch.bare, strict=True))
    for epoch, (fit, bare) in enumerate(times, start=1):
        print(f"epoch {epoch}   fit {fit:6.2f} s   bare {bare:6.2f} s   ratio {fit / bare:.3f}")
    if options.gpu_check:
        pairs = sorted(b / a for a, b in zip(watch.fit[0::2], watch.fit[1::2], strict=False))
        print(f"with the variable {statistics.median(pairs):.3f} times the epoch ({pairs[0]:.3f} to {pairs[-1]:.3f})")
        return
    ratios = sorted(fit / bare for fit, bare in times)
    print(f"median ratio {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    run_script(main)
