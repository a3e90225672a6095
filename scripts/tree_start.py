r"""Why hierarchical Tucker of a large rank hardly trained: the first steps from one network in three scales.

    python scripts/tree_start.py [--dataset mnist5k] [--root FOLDER] [--patch-size 7] [--ranks 8 16 32]
        [--rates 2e-3 1e-3 5e-4] [--seeds 3] [--steps 400] [--output results/tree_start]

A tree whose leaves are multiplied by s, its nodes by 1/s and its root by 1/s^2 has the same scores. Adam moves every
entry by about the learning rate lr, so that its first step moves the vector of a node by r^2 s lr, relative to its
size. The ``identity`` start has s = r^(-1/2); it had s = 1, "ones". The network and the training are those of
configs/paper/k18_widths.yaml. The table has the largest loss of a batch, and the mean loss of the last quarter of the
steps: means and standard deviations over the seeds. Rows that OUTPUT.json has are not measured again.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ttlightning import HierarchicalTucker, PatchFeatureMap
from ttlightning.data.datasets import default_root, read_dataset
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_global_generator
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

SCALES = {"ones, s = 1": 0.0, "s = r^(-1/2)": -0.5, "s = 1/r": -1.0}
"""Name: the power of r that a leaf starts with."""
KEYS = ("dataset", "rank", "rate", "scale", "seed", "steps")
BATCH = 32


def rescale(format: HierarchicalTucker, factor: float) -> None:
    """Multiply the vectors of all nodes by ``factor`` and keep the scores."""
    with torch.no_grad():
        format.leaves.mul_(factor)
        for node in format.nodes:
            node.div_(factor)
        format.root.div_(factor**2)


def losses(patches: Tensor, labels: Tensor, rank: int, rate: float, power: float, seed: int, steps: int) -> list[float]:
    """The loss of each of the first batches."""
    classes, sites, pixels = int(labels.max()) + 1, *patches.shape[1:]
    with keyed_global_generator(seed, "initialization"):
        features = PatchFeatureMap(pixels, 5, "gelu")
        format = HierarchicalTucker(sites, 5, classes, rank, gain=3.0)
    rescale(format, rank ** (power + 0.5))
    network = Network(features, format, pixel_mean=0.3)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = F.cross_entropy(network(patches[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each data set, rank and learning rate."""
    lines = [f"| data | rank | lr | {' | '.join(SCALES)} |", "|---" * (3 + len(SCALES)) + "|"]
    for key in sorted({(row["dataset"], row["rank"], -row["rate"]) for row in rows}):
        mine = [row for row in rows if (row["dataset"], row["rank"], -row["rate"]) == key]
        cells = []
        for scale in SCALES:
            here = [row for row in mine if row["scale"] == scale]
            largest, last = (_mean([row[name] for row in here]) for name in ("largest_loss", "last_loss"))
            cells.append(f"{last}, largest {largest}" if here else "")
        lines.append(f"| {key[0]} | {key[1]} | {-key[2]:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{spread}" if values else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist5k")
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--patch-size", type=int, default=7)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 1e-3, 5e-4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("results/tree_start"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = options.output.with_suffix(".json")
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    known = {tuple(row[key] for key in KEYS) for row in rows}
    images = read_dataset(options.dataset, options.root).train
    patches = scaled(Patching(options.patch_size)(images.images), torch.float32)
    for seed, rank, rate, scale in itertools.product(range(options.seeds), options.ranks, options.rates, SCALES):
        key = dict(zip(KEYS, (options.dataset, rank, rate, scale, seed, options.steps), strict=True))
        if tuple(key.values()) in known:
            continue
        found = losses(patches, images.labels, rank, rate, SCALES[scale], seed, options.steps)
        last = statistics.fmean(found[-max(1, options.steps // 4) :])
        rows.append(key | {"largest_loss": max(found), "last_loss": last})
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"machine": cpu_name(), "torch": torch.__version__, "rows": rows})
    write_whole(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


if __name__ == "__main__":
    run_script(main)
