"""Networks of the same accuracy on MNIST: images per second in training and inference, beside ours.

    python scripts/benchmark_networks.py [--epochs 5] [--rounds 25] [--threads 1 2] [--output PATH]

Ours are the networks of eq.yaml and tt.yaml, without patch dropout. Beside them: one hidden dense layer, a small
convolutional network, and torch's LSTM over the same 16 patches. Their widths were chosen so that they are about as
accurate as eq.yaml's after the same training: AdamW, one cycle, batches of 100, ``--epochs`` epochs, one seed. Without
MNIST the 5,000 digits of mnist5k stand for it, and the output says so.

Training is forward, cross-entropy, backward and a step of AdamW on a batch of 100; inference is a batch of 1,000
without gradients. Every network gets its pixels in the layout that it reads. Steps are interleaved in rounds; the
output has medians, quartiles, and ratios to eq.yaml of the same round. ``--output`` writes .json.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark import interleaved
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning import EqualCoreTensorTrain, PatchFeatureMap, TensorTrain
from ttlightning.data.datasets import default_root, read_dataset
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.network import Network
from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

TRAIN, INFER = 100, 1000
"""Images in a batch."""


class Recurrent(nn.Module):
    """torch's LSTM over the patches, and a linear map of its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells, self.last = nn.LSTM(49, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, patches: Tensor) -> Tensor:
        return self.last(self.cells(patches)[0][:, -1])


def dense(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, width), nn.GELU(), nn.Linear(width, 10))


def convolutional(channels: int) -> nn.Module:
    """Two convolutions of 5 x 5 with stride 2, and a linear map."""
    convolutions = nn.Conv2d(1, channels, 5, 2), nn.GELU(), nn.Conv2d(channels, 2 * channels, 5, 2), nn.GELU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2 * channels * 16, 10))


def ours(kind: Callable[..., nn.Module], gain: float) -> nn.Module:
    return Network(PatchFeatureMap(49, 17, "gelu"), kind(16, 17, 10, 16, gain=gain), pixel_mean=0.13)


@dataclass(frozen=True)
class Entry:
    """A network by name: how it is made, and the layout of its pixels."""

    make: Callable[[], nn.Module]
    layout: str


NETWORKS = {
    "TT, equal cores": Entry(lambda: ours(EqualCoreTensorTrain, 10.0), "patches"),
    "TT, different cores": Entry(lambda: ours(TensorTrain, 10.0), "patches"),
    "dense layer": Entry(lambda: dense(64), "vectors"),
    "convolutions": Entry(lambda: convolutional(3), "images"),
    "LSTM": Entry(lambda: Recurrent(64), "patches"),
}
REFERENCE = "TT, equal cores"


def layouts(images: Tensor) -> dict[str, Tensor]:
    """The same images as pixels in [0, 1]: whole, as vectors, as 16 patches of 7 x 7."""
    pixels = scaled(images, torch.float32)
    return {"images": pixels, "vectors": pixels.flatten(1), "patches": scaled(Patching(7)(images), torch.float32)}


def optimizer_of(network: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.1, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor) -> None:
    loss = F.cross_entropy(network(pixels), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def accuracy_of(entry: Entry, data: Any, epochs: int) -> float:
    """Test accuracy after ``epochs`` epochs, from seed 0."""
    torch.manual_seed(0)
    network, pixels = entry.make(), layouts(data.train.images)[entry.layout]
    batches = len(pixels) // TRAIN
    optimizer, schedule = optimizer_of(network, max(1, epochs * batches))
    for _ in range(epochs):
        for chosen in torch.randperm(len(pixels))[: batches * TRAIN].split(TRAIN):
            train_step(network, optimizer, pixels[chosen], data.train.labels[chosen])
            schedule.step()
    with torch.no_grad():
        scores = torch.cat([network(part) for part in layouts(data.test.images)[entry.layout].split(INFER)])
    return float((scores.argmax(1) == data.test.labels).float().mean())


def steps_of(entry: Entry, images: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """A training step and an inference, as functions without arguments."""
    network, pixels = entry.make(), layouts(images)[entry.layout]
    optimizer, _ = optimizer_of(network, 10)
    few, its = pixels[:TRAIN].contiguous(), labels[:TRAIN]

    @torch.no_grad()
    def infer() -> object:
        return network(pixels)

    return {"training": lambda: train_step(network, optimizer, few, its), "inference": infer}


def speeds(data: Any, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Images per second of every network, by median and quartiles, and the ratio to the first network."""
    torch.set_num_threads(threads)
    images, labels = data.train.images[:INFER], data.train.labels[:INFER]
    steps = {name: steps_of(entry, images, labels) for name, entry in NETWORKS.items()}
    found: dict[str, dict[str, Any]] = {name: {} for name in NETWORKS}
    for what, batch in (("training", TRAIN), ("inference", len(images))):
        times = interleaved({name: pair[what] for name, pair in steps.items()}, rounds)
        for name, values in times.items():
            low, middle, high = statistics.quantiles(values, n=4)
            ratios = [mine / other for mine, other in zip(times[REFERENCE], values, strict=True)]
            found[name] |= {
                f"{what}_images_per_s": 1e3 * batch / middle,
                f"{what}_quartiles": [1e3 * batch / high, 1e3 * batch / low],
                f"{what}_ratio": statistics.median(ratios),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--output", type=Path, help="path of the .json, without the ending")
    options = parser.parse_args()
    data = read_dataset(options.dataset, default_root(), "mnist5k")
    rows = []
    for name, entry in NETWORKS.items():
        parameters = sum(p.numel() for p in entry.make().parameters())
        rows.append({"network": name, "parameters": parameters, "accuracy": accuracy_of(entry, data, options.epochs)})
    for threads in options.threads:
        found = speeds(data, threads, options.rounds)
        for row in rows:
            row[f"threads_{threads}"] = found[row["network"]]
    whats = [(n, what) for n in options.threads for what in ("training", "inference")]
    report = {"machine": cpu_name(), "torch": torch.__version__, "dataset": data.name, "epochs": options.epochs,
              "threads": options.threads, "networks": rows}  # fmt: skip
    titles = (f"{what}, images/s, {n} thr." for n, what in whats)
    table = Table("network", "parameters", f"accuracy, {data.name}", *titles)
    for row in rows:
        each = [row[f"threads_{n}"][f"{what}_images_per_s"] for n, what in whats]
        table.add_row(row["network"], f"{row['parameters']:,}", f"{row['accuracy']:.2%}", *(f"{x:,.0f}" for x in each))
    Console(width=150).print(table)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
