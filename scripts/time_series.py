"""sequences/series.yaml on time series from files, beside the nearest neighbour.

    python scripts/time_series.py FOLDER ... [--config sequences/series.yaml] [--seeds 3] [--jobs 1]
        [--output results/time_series] [options of fit]

Every FOLDER has a pair NAME_TRAIN, NAME_TEST (.tsv, .txt, .csv or .ts), as the UCR archive has them. The recipe is the
same for all. Beside its accuracy on the test set stands that of the nearest training series in Euclidean distance,
shorter series filled with zeros: the baseline of the archive. Runs that have a result in $TTLIGHTNING_RUNS are not made
again. Writes OUTPUT.json and .md.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch

from ttlightning.commands.studies import Job, configuration, make_runs, percent, require
from ttlightning.data.own import Own
from ttlightning.data.sequences import read_sequences
from ttlightning.data.splits import Split
from ttlightning.data.windows import Windows
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script


def nearest(data: Own) -> float:
    """Test accuracy of the label of the nearest training series."""
    train, test = data.images.train, data.images.test
    distances = torch.cdist(test.images.flatten(1).double(), train.images.flatten(1).double())
    return float((train.labels[distances.argmin(1)] == test.labels).double().mean())


def shortest_and_longest(parts: tuple[Split, ...], width: int) -> list[int]:
    """Values, of all series."""
    lengths = [part.lengths for part in parts if part.lengths is not None]
    return [int(torch.cat(lengths).min()), int(torch.cat(lengths).max())] if lengths else [width, width]


def row(folder: Path, runs: list[Run], windows: Windows) -> dict[str, Any]:
    data = read_sequences("time_series", folder, windows)
    parts = data.images.train, data.images.test
    results = [run.result for run in runs]
    return {
        "name": folder.name,
        "train": len(parts[0].labels),
        "test": len(parts[1].labels),
        "classes": data.spec.classes,
        "values": shortest_and_longest(parts, data.spec.shape[2]),
        "parameters": results[0]["parameters"],
        "nearest": nearest(data),
        "accuracy": [result["metrics"]["test/acc"] for result in results],
        "seconds": [result["seconds"] for result in results],
        "weights_sha256": [result["weights_sha256"] for result in results],
        "result_sha256": [hashlib.sha256(run.result_file.read_bytes()).hexdigest() for run in runs],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data | classes | training series | test series | values, filled to windows | parameters | nearest neighbour "
        "| chain |",
        "|---" * 8 + "|",
    ]
    for found in rows:
        low, high = found["values"]
        cells = [
            found["name"],
            found["classes"],
            found["train"],
            f"{found['test']:,}",
            high if low == high else f"{low} to {high}",
            f"{found['parameters']:,}",
            f"{100 * found['nearest']:.1f}",
            percent(found["accuracy"]),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--config", default="sequences/series.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("results/time_series"))
    options, more = parser.parse_known_args()
    quiet = ("--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled", *more)
    words = {folder: ("--config", options.config, f"--data.root={folder}", *quiet) for folder in options.folders}
    jobs = [Job(f"series_{f.name}", words[f], seed) for f in options.folders for seed in range(options.seeds)]
    runs = require(make_runs(jobs, options.jobs))
    rows = []
    for index, folder in enumerate(options.folders):
        of_data = configuration(words[folder])["data"]
        windows = Windows(of_data["patch_size"][1], (of_data["stride"] or of_data["patch_size"])[1])
        rows.append(row(folder, runs[index * options.seeds : (index + 1) * options.seeds], windows))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"config": options.config, "machine": cpu_name(), "torch": torch.__version__}
    write_json(options.output.with_suffix(".json"), about | {"rows": rows})
    write_whole(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


if __name__ == "__main__":
    run_script(main)
