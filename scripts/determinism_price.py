"""Cost of exactness: epoch times with torch's deterministic algorithms and with microbatches, as ratios.

    python scripts/determinism_price.py [--rounds 7] [any option of fit]

One run of `fit` changes its setting from epoch to epoch: as it is, not deterministic, four microbatches. Drifts of the
machine's speed change all of them. Prints the medians of the ratios within a round, and their range.
"""

import argparse
import os
import statistics
import time
from typing import Any

import torch
from epoch_overhead import watched_fit
from lightning.pytorch import Callback, LightningModule, Trainer

from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

SETTINGS = {"as it is": (True, 1), "not deterministic": (False, 1), "four microbatches": (True, 4)}
"""Name: deterministic algorithms, microbatches."""


class Settings(Callback):
    """Changes the setting from epoch to epoch and measures each epoch up to its last step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.name = list(SETTINGS)[trainer.current_epoch % len(SETTINGS)]
        deterministic, pl_module.microbatches = SETTINGS[self.name]
        torch.use_deterministic_algorithms(deterministic)
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_last_batch:
            self.seconds[self.name].append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--config", default="eq.yaml")
    options, overrides = parser.parse_known_args()
    os.environ["WANDB_MODE"] = "disabled"
    epochs, quiet = f"--trainer.max_epochs={len(SETTINGS) * options.rounds}", "--trainer.enable_progress_bar=false"
    watch = Settings()
    watched_fit(watch, ["--config", options.config, epochs, quiet, "--data.steps_per_execution=16", *overrides])
    print(f"\n{options.config} on {cpu_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for price, above, below in (
        ("deterministic algorithms", "as it is", "not deterministic"),
        ("four microbatches", "four microbatches", "as it is"),
    ):
        ratios = sorted(a / b for a, b in zip(watch.seconds[above], watch.seconds[below], strict=True))
        print(f"{price}: {statistics.median(ratios):.2f} times the epoch ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    run_script(main)
