"""Accuracy against width and against parameters: TT, equal cores, CP and HT  [K18, Sec. 6].

    python scripts/width_sweep.py [--datasets mnist fashion_mnist cifar10] [--folder "CIFAR-10 (JPEG)=FOLDER"]
        [--ranks 2 4 8 16 32] [--shallow-ranks 64 128 256] [--rates 2e-3 1e-3] [--epochs 10] [--jobs 2]
        [--output results/width_sweep] [--quick]

configs/paper/k18_widths.yaml for every format and rank at every learning rate; of those, the run with the lowest
training loss counts. The shallow network, which has the fewest parameters at a rank, is given more ranks, so that it
can have as many parameters as the others. A data set that is neither in the data root nor downloadable is left out, in
one line. --folder adds images in FOLDER/train/<class> and FOLDER/test/<class>, under a name for the figure. A run that
has a result in $TTLIGHTNING_RUNS is not made again. --quick: one epoch on 4,000 digits, rank 2. Writes OUTPUT.json,
.md, .png.
"""

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ttlightning.commands.studies import Job, make_runs, require
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
    epochs: int

    @property
    def experiment(self) -> str:
        data = "".join(c for c in self.data.lower() if c.isalnum())
        return f"width_{data}_{self.format}_r{self.rank}_lr{self.rate:g}_e{self.epochs}"

    def job(self) -> Job:
        options = [
            *("--config", "paper/k18_widths.yaml", *self.options, "--model.format", self.format),
            *(f"--model.format.init_args.rank={self.rank}", "--model.format.init_args.gain=3"),
            *(f"--model.optimizer.init_args.lr={self.rate}", f"--trainer.max_epochs={self.epochs}"),
            *("--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled"),
        ]
        return Job(self.experiment, tuple(options), seed=0)


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
            sys.exit(f"--folder is {entry!r}: it must be NAME=FOLDER, and FOLDER must have train/ and test/")
        available[name] = "--data.dataset=image_folder", f"--data.root={folder}", "--data.patch_size=8"
    return available


def plan(options: argparse.Namespace, available: dict[str, tuple[str, ...]]) -> list[Point]:
    """Every network on every data set at every learning rate; the further ranks are those of the shallow one alone."""
    return [
        Point(data, available[data], format, rank, rate, options.epochs)
        for rank in (*options.ranks, *options.shallow_ranks)
        for data in available
        for format in options.formats
        if rank in options.ranks or format == "CanonicalPolyadic"
        for rate in options.rates
    ]


def collect(points: list[Point], runs: list[Run]) -> list[dict[str, Any]]:
    """For every network, the run with the lowest training loss."""
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for point, run in zip(points, runs, strict=True):
        result = run.result
        metrics = result["metrics"]
        row = {
            "data": point.data,
            "data_sha256": run.provenance["dataset"]["sha256"],
            "format": point.format,
            "rank": point.rank,
            "parameters": result["parameters"],
            "rate": point.rate,
            "train_loss": metrics["train/loss"],
            "train_acc": metrics["train/acc"],
            "test_acc": metrics["test/acc"],
            "weights_sha256": result["weights_sha256"],
            "result_sha256": hashlib.sha256(run.result_file.read_bytes()).hexdigest(),
        }
        best = rows.setdefault((point.data, point.format, point.rank), row)
        if row["train_loss"] < best["train_loss"]:
            rows[point.data, point.format, point.rank] = row
    return list(rows.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: test (train) accuracy in percent, a line for each format and rank, a column for each data set."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    lines = [f"| format | rank | parameters | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for format, title in FORMATS.items():
        for rank in sorted({row["rank"] for row in rows if row["format"] == format}):
            here = {row["data"]: row for row in rows if (row["format"], row["rank"]) == (format, rank)}
            cells = [
                f"{100 * here[n]['test_acc']:.2f} ({100 * here[n]['train_acc']:.2f})" if n in here else ""
                for n in names
            ]
            sizes = " / ".join(dict.fromkeys(f"{here[name]['parameters']:,}" for name in names if name in here))
            lines.append(f"| {title} | {rank} | {sizes} | {' | '.join(cells)} |")
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
                    accuracy = [100 * r[value] for r in mine]
                    label = title if value == "test_acc" else None
                    panel.plot(
                        [r[key] for r in mine], accuracy, line, color=f"C{number}", markersize=4, label=label, lw=1.4
                    )
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
    parser.add_argument("--shallow-ranks", type=int, nargs="*", default=[64, 128, 256], help="more ranks, of CP alone")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 1e-3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: as many as there are GPUs, else cores")
    parser.add_argument("--output", type=Path, default=Path("results/width_sweep"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.datasets, options.folder = ["mnist5k"], []
        options.ranks, options.shallow_ranks, options.rates, options.epochs = [2], [], [4e-3], 1
    available = data_sets(options.datasets, options.folder)
    if not available:
        sys.exit("no data set is at hand: $TTLIGHTNING_DATA names the folder that has them")
    points = plan(options, available)
    outcomes = make_runs([point.job() for point in points], options.jobs)
    rows = collect(points, require(outcomes))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), {"epochs": options.epochs, "rates": options.rates, "points": rows})
    options.output.with_suffix(".md").write_text(table(rows))
    draw(rows, options.output.with_suffix(".png"))
    print(table(rows), end="")


if __name__ == "__main__":
    run_script(main)
