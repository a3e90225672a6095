"""Decision boundaries of small networks on points in the plane, as in [K18, Sec. 6.1 and Fig. 4], with more formats.

    python scripts/toy_boundaries.py [--seed 0] [--jobs 2] [--output results/toy_boundaries] [--quick]

Trains configs/toy/moons.yaml and circles.yaml in five formats and draws class probabilities, decision boundary and test
points; parameters and test accuracy are those of result.json. A point's two coordinates are two patches, as in [K18].
A chain of two sites has no interior core, so equal and different cores are the same network. The figure has it at
TT-rank 1, where a boundary consists of lines parallel to the axes, and at TT-rank 2. The other networks read the
coordinates twice, x1 x2 x1 x2 (d = 4). A run with a result in $TTLIGHTNING_RUNS is not repeated. --quick: moons,
two formats, one epoch.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from ttlightning.commands.studies import Job, make_runs, require
from ttlightning.data.datasets import read_dataset
from ttlightning.networks.network import Network as TrainedNetwork
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import write_json
from ttlightning.runs.run import Run, load
from ttlightning.system.output import run_script

SIDE = 300
"""Points of the drawn grid along each axis."""

MARGIN = 0.3
"""Distance from the test points to the edge of a drawing."""

WIDTH = 2.5
"""Width of a drawing, in inches."""

PALE = ListedColormap(plt.get_cmap("RdBu")(np.linspace(0.25, 0.75, 256)))
DARK = plt.get_cmap("RdBu")([0.04, 0.96])
"""Colours of the probability of class 1, and of the points of both classes."""


class Network(NamedTuple):
    """One column of the figure."""

    title: str
    format: str
    rank: int
    repeat: int

    @property
    def name(self) -> str:
        return f"{self.format}_r{self.rank}_d{2 * self.repeat}"


NETWORKS = (
    Network("tensor train, d = 2, r = 1", "TensorTrain", 1, 1),
    Network("tensor train, d = 2, r = 2", "TensorTrain", 2, 1),
    Network("tensor train, d = 4, r = 2", "TensorTrain", 2, 2),
    Network("equal cores, d = 4, r = 2", "EqualCoreTensorTrain", 2, 2),
    Network("CP, d = 4, r = 2", "CanonicalPolyadic", 2, 2),
)


def job(dataset: str, network: Network, seed: int, quick: bool) -> Job:
    """Job that trains one network."""
    words = f"--config toy/{dataset}.yaml --model.format={network.format} --model.format.rank={network.rank} "
    words += f"--data.repeat={network.repeat} --trainer.accelerator=cpu --wandb.mode=disabled"
    words += " --trainer.max_epochs=1" * quick
    return Job(f"toy_{dataset}_{network.name}" + "_quick" * quick, tuple(words.split()), seed)


def trained(run: Run) -> TrainedNetwork:
    """The trained network of a run."""
    network = load(run.path)
    if weights_sha256(network.state_dict()) != run.result["weights_sha256"]:
        sys.exit(f"the weights in {run.checkpoint} are not the ones of {run.result_file}")
    return network


def probability(network: TrainedNetwork, points: Tensor) -> np.ndarray:
    """Probability of class 1 at points (samples, 2)."""
    return network.score_images(points.reshape(-1, 1, 2, 1)).softmax(-1)[:, 1].numpy()


def collect(run: Run) -> dict[str, Any]:
    """Numbers of a run for the table and the figure."""
    result = run.result
    numbers = {name: result[name] for name in ("dataset", "seed", "epochs", "parameters", "weights_sha256")}
    return numbers | {"test_accuracy": result["metrics"]["test/acc"], "train_accuracy": result["metrics"]["train/acc"]}


def draw(runs: dict[tuple[str, Network], Run], numbers_of: dict[str, dict[str, Any]], path: Path) -> None:
    datasets, networks = (list(dict.fromkeys(key[part] for key in runs)) for part in (0, 1))
    tests = [read_dataset(dataset, Path()).test for dataset in datasets]
    areas = [[(p.min() - MARGIN, p.max() + MARGIN) for p in test.images.flatten(1).T] for test in tests]
    heights = [float((top - bottom) / (right - left)) for (left, right), (bottom, top) in areas]
    size = WIDTH * len(networks) + 1, sum(WIDTH * height + 0.4 for height in heights)
    figure, axes = plt.subplots(
        len(datasets), len(networks), figsize=size, layout="constrained", squeeze=False, height_ratios=heights
    )
    for dataset, test, area, row in zip(datasets, tests, areas, axes, strict=True):
        points = test.images.flatten(1)
        sides = [torch.linspace(least, most, SIDE) for least, most in area]
        grid = torch.cartesian_prod(*sides)
        for network, axis in zip(networks, row, strict=True):
            values = probability(trained(runs[dataset, network]), grid).reshape(SIDE, SIDE).T
            shown = axis.pcolormesh(*sides, values, cmap=PALE, vmin=0, vmax=1, rasterized=True)
            for label, color in enumerate(DARK):
                axis.plot(*points[test.labels == label].T, ".", color=color, markersize=2, markeredgewidth=0)
            axis.contour(*sides, values, levels=[0.5], colors="black", linewidths=1.2)
            numbers = numbers_of[f"{dataset}, {network.title}"]
            title = f"{numbers['parameters']} parameters, test {numbers['test_accuracy']:.1%}"
            axis.set_title(f"{network.title}\n{title}" if axis in axes[0] else title, fontsize=9)
            axis.set(aspect="equal", xticks=[], yticks=[])
        row[0].set_ylabel(dataset)
    figure.colorbar(shown, ax=axes, label="probability of class 1", aspect=30, pad=0.01, shrink=0.9)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: as many as there are GPUs, else cores")
    parser.add_argument("--output", type=Path, default=Path("results/toy_boundaries"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    datasets, networks = (("moons",), NETWORKS[2:4]) if options.quick else (("moons", "circles"), NETWORKS)
    wanted = [(dataset, network) for dataset in datasets for network in networks]
    outcomes = make_runs([job(*each, options.seed, options.quick) for each in wanted], options.jobs)
    runs = dict(zip(wanted, require(outcomes), strict=True))
    numbers_of = {f"{dataset}, {network.title}": collect(run) for (dataset, network), run in runs.items()}
    print("| points | network | parameters | train accuracy | test accuracy |\n|---|---|---|---|---|")
    for (dataset, network), numbers in zip(wanted, numbers_of.values(), strict=True):
        accuracies = f"{numbers['train_accuracy']:.2%} | {numbers['test_accuracy']:.2%}"
        print(f"| {dataset} | {network.title} | {numbers['parameters']} | {accuracies} |")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), numbers_of)
    draw(runs, numbers_of, options.output.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
