"""Accuracy against width and against parameters: TT, equal cores, CP and HT  [K18, Sec. 6].

    python scripts/width_sweep.py [--datasets mnist fashion_mnist cifar10] [--folder "CIFAR-10 (JPEG)=FOLDER"]
        [--ranks 2 4 8 16 32] [--shallow-ranks 64 128 256 512] [--rates 4e-3 2e-3 1e-3 5e-4] [--seeds 3]
        [--epochs 10] [--jobs 2] [--output results/width_sweep] [--finished] [--quick]

configs/paper/k18_widths.yaml for every format and rank, at every learning rate. The rate with the lowest training loss
counts, and is trained with the other seeds too; a rate at which the loss is not finite does not count. The shallow
network, which has the fewest parameters at a rank, is given more ranks, so that it can have as many parameters as the
others. A data set that is neither in the data root nor downloadable is left out, in one line. --folder adds images in
FOLDER/train/<class> and FOLDER/test/<class>, under a name for the figure. A run that has a result in
$TTLIGHTNING_RUNS is not made again. --finished makes no run, and takes those that are there. --quick: one epoch on
4,000 digits, rank 2, two rates, two seeds. Writes OUTPUT.json, .md, .png: means and 95 % intervals (Student's t) over
the seeds, in the figure their range.
"""

import argparse
import hashlib
import math
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ttlightning.commands.studies import Job, configurations_of, faults_of, make_runs, percent, run_of
from ttlightning.data.datasets import default_root, fetch_dataset, read_dataset
from ttlightning.errors import UserError
from ttlightning.runs.files import write_json
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

FORMATS = {
    "TensorTrain": "TT, different cores",
    "EqualCoreTensorTrain": "TT, equal cores",
    "CanonicalPolyadic": "CP (shallow)",
    "HierarchicalTucker": "HT (tree)",
}
METRICS = ("train_loss", "train_acc", "test_acc")
FEW_RANKS = ("--rank_check.sketch_size=8", "--rank_check.mixed_images=8")
"""At the end of a run; the sweep has no use for them, and they take longer than the training at large ranks."""
NOT_FINITE = "the training loss is "
"""In the line of a run that ends because its loss is not finite."""
PATCHES = {"mnist5k": 7, "mnist": 7, "fashion_mnist": 7, "cifar10": 8}  # 16 sites


@dataclass(frozen=True)
class Point:
    """One network on one data set at one learning rate."""

    data: str
    """name in the figure"""
    options: tuple[str, ...]
    """what tells fit about the data"""
    format: str
    rank: int
    rate: float
    seed: int
    epochs: int

    @property
    def network(self) -> tuple[str, str, int]:
        return self.data, self.format, self.rank

    @property
    def experiment(self) -> str:
        data = "".join(c for c in self.data.lower() if c.isalnum())
        return f"width_{data}_{self.format}_r{self.rank}_lr{self.rate:g}_e{self.epochs}"

    def job(self) -> Job:
        options = [
            *("--config", "paper/k18_widths.yaml", *self.options, "--model.format", self.format),
            *(f"--model.format.init_args.rank={self.rank}", "--model.format.init_args.gain=3"),
            *(f"--model.optimizer.init_args.lr={self.rate}", f"--trainer.max_epochs={self.epochs}"),
            *("--rank_check.every_n_epochs=0", *FEW_RANKS, "--figures=false", "--wandb.mode=disabled"),
        ]
        return Job(self.experiment, tuple(options), self.seed)


def data_sets(names: list[str], folders: list[str]) -> dict[str, tuple[str, ...]]:
    """Available data sets: name in the figure, options of fit."""
    available = {}
    for name in names:
        try:
            fetch_dataset(name, default_root())
            read_dataset(name, default_root())
        except UserError as absent:
            print(f"left out: {absent}", file=sys.stderr)
            continue
        available[name] = f"--data.dataset={name}", f"--data.patch_size={PATCHES[name]}"
    for entry in folders:
        name, equals, folder = entry.partition("=")
        if not equals or not Path(folder, "train").is_dir():
            raise UserError(f"--folder is {entry!r}: it must be NAME=FOLDER, and FOLDER must have train/ and test/")
        available[name] = "--data.dataset=image_folder", f"--data.root={folder}", "--data.patch_size=8"
    return available


def plan(options: argparse.Namespace, available: dict[str, tuple[str, ...]]) -> list[Point]:
    """Every network on every data set at every learning rate, with seed 0; the further ranks are those of CP alone."""
    return [
        Point(data, available[data], format, rank, rate, 0, options.epochs)
        for rank in (*options.ranks, *options.shallow_ranks)
        for data in available
        for format in options.formats
        if rank in options.ranks or format == "CanonicalPolyadic"
        for rate in options.rates
    ]


def make(points: list[Point], options: argparse.Namespace) -> dict[Point, Run | None]:
    """The runs of these points, None where a loss was not finite; with --finished, those that are there."""
    if options.finished:
        configurations = configurations_of([point.job() for point in points])
        there = [p for p in points if run_of(p.job(), configurations[p.job()[:2]]).state == "finished"]
        print(f"{len(there)} of {len(points)} runs are there; the rate is chosen among these", file=sys.stderr)
        points = there
    outcomes = make_runs([point.job() for point in points], options.jobs)
    if faults := faults_of([each for each in outcomes if NOT_FINITE not in each.fault]):
        sys.exit(faults)
    return {point: outcome.run for point, outcome in zip(points, outcomes, strict=True)}


def choose(found: dict[Point, Run | None]) -> dict[Point, dict[str, float | str]]:
    """For every network the point with the lowest training loss, and the losses of all its rates."""
    networks: dict[tuple[str, str, int], dict[Point, float]] = {}
    for point, run in found.items():
        loss = math.inf if run is None else run.result["metrics"]["train/loss"]
        networks.setdefault(point.network, {})[point] = loss
    return {
        min(losses, key=losses.__getitem__): {
            f"{point.rate:g}": loss if loss < math.inf else "not finite" for point, loss in losses.items()
        }
        for losses in networks.values()
        if min(losses.values()) < math.inf
    }


def row(point: Point, losses: dict[str, float | str], of_seeds: dict[int, Run | None]) -> dict[str, Any]:
    """A network with its seeds; those whose loss was not finite are counted, and have no accuracy."""
    runs = {seed: run for seed, run in of_seeds.items() if run is not None}
    results = [run.result for run in runs.values()]
    return (
        {"data": point.data, "data_sha256": runs[0].provenance["dataset"]["sha256"], "format": point.format}
        | {"rank": point.rank, "parameters": results[0]["parameters"], "rate": point.rate, "train_losses": losses}
        | {"seeds": list(runs), "not_finite": len(of_seeds) - len(runs)}
        | {name: [result["metrics"][name.replace("_", "/")] for result in results] for name in METRICS}
        | {"weights_sha256": [result["weights_sha256"] for result in results]}
        | {"result_sha256": [hashlib.sha256(run.result_file.read_bytes()).hexdigest() for run in runs.values()]}
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: test and train accuracy in percent, a line for each format and rank, a column for each data set."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    head = " | ".join(f"{name}, test | train | rate" for name in names)
    lines = [f"| format | rank | parameters | seeds | {head} |", "|---" * (4 + 3 * len(names)) + "|"]
    for format, title in FORMATS.items():
        for rank in sorted({row["rank"] for row in rows if row["format"] == format}):
            here = {row["data"]: row for row in rows if (row["format"], row["rank"]) == (format, rank)}
            cells = [
                f"{percent(here[n]['test_acc'])} | {percent(here[n]['train_acc'])} | {here[n]['rate']:g}"
                if n in here
                else " | | "
                for n in names
            ]
            there = [here[name] for name in names if name in here]
            sizes = " / ".join(dict.fromkeys(f"{row['parameters']:,}" for row in there))
            seeds = " / ".join(dict.fromkeys(str(len(row["seeds"])) for row in there))
            lines.append(f"| {title} | {rank} | {sizes} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against rank (left) and against parameters (right), a row of panels for each data set."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, panels = plt.subplots(len(names), 2, figsize=(9, 3.2 * len(names)), squeeze=False, layout="constrained")
    for (left, right), name in zip(panels, names, strict=True):
        for number, (format, title) in enumerate(FORMATS.items()):
            mine = sorted((r for r in rows if (r["data"], r["format"]) == (name, format)), key=lambda r: r["rank"])
            for panel, key in ((left, "rank"), (right, "parameters")):
                for value, line in (("test_acc", "-o"), ("train_acc", ":")):
                    several = [[100 * accuracy for accuracy in r[value]] for r in mine]
                    means = [statistics.fmean(each) for each in several]
                    sizes, color = [r[key] for r in mine], f"C{number}"
                    label = title if value == "test_acc" else None
                    panel.plot(sizes, means, line, color=color, markersize=3, label=label, lw=1.4)
                    if value == "test_acc":
                        panel.fill_between(sizes, [*map(min, several)], [*map(max, several)], color=color, alpha=0.2)
        left.set(xscale="log", ylabel="accuracy, %", xlabel="rank (width)", title=name)
        left.set_xticks(sorted({r["rank"] for r in rows}), labels=sorted({str(r["rank"]) for r in rows}, key=int))
        left.minorticks_off()
        right.set(xscale="log", xlabel="parameters", title=name)
        for panel in (left, right):
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8, title="test (dotted: training)", title_fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", default=["mnist", "fashion_mnist", "cifar10"], choices=PATCHES)
    parser.add_argument("--folder", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument(
        "--shallow-ranks", type=int, nargs="*", default=[64, 128, 256, 512], help="more ranks, of CP alone"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 2e-3, 1e-3, 5e-4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: as many as there are GPUs, else cores")
    parser.add_argument("--output", type=Path, default=Path("results/width_sweep"))
    parser.add_argument("--finished", action="store_true", help="make no run")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.datasets, options.folder = ["mnist5k"], []
        options.ranks, options.shallow_ranks, options.rates, options.seeds, options.epochs = [2], [], [4e-3, 1e-3], 2, 1
    if options.seeds < 1 or options.epochs < 1:
        raise UserError(f"--seeds is {options.seeds}, --epochs is {options.epochs}: both must be at least 1")
    available = data_sets(options.datasets, options.folder)
    if not available:
        raise UserError("no data set is at hand: $TTLIGHTNING_DATA names the folder that has them")
    first = make(plan(options, available), options)
    chosen = choose(first)
    others = make([replace(p, seed=s) for s in range(1, options.seeds) for p in chosen], options)
    found = first | others
    seeds = range(options.seeds)
    rows = [
        row(point, losses, {s: found[p] for s in seeds if (p := replace(point, seed=s)) in found})
        for point, losses in chosen.items()
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), {"epochs": options.epochs, "rates": options.rates, "points": rows})
    options.output.with_suffix(".md").write_text(table(rows))
    draw(rows, options.output.with_suffix(".png"))
    print(table(rows), end="")


if __name__ == "__main__":
    run_script(main)
