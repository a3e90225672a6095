"""What limits equal cores: how they are trained, or what they can say? One change at a time.

    python scripts/optimization_study.py [--datasets mnist fashion_mnist=FOLDER] [--folder "CIFAR-10 (JPEG)=FOLDER"]
        [--only NAME ...] [--epochs 6] [--seeds 1] [--jobs 2] [--output results/optimization_study] [--quick]

best/any.yaml with plain labels and augmented images in all epochs, and the same with one thing changed, for each data
set: accuracy on the validation split (10 % of the training images), and in the last epoch of training. A change whose
loss is not finite has that in the table. The test set is not read. A run that has a result in $TTLIGHTNING_RUNS is not
made again. --quick: one epoch on 4,000 digits, two changes. Writes OUTPUT.json and .md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ttlightning.commands.studies import Job, Outcome, faults_of, make_runs, percent
from ttlightning.errors import UserError
from ttlightning.runs.files import write_json
from ttlightning.system.output import run_script

NOT_FINITE = "the training loss is "
"""In the line of a run that ends because its loss is not finite."""
FORMAT = "--model.format.init_args."
ADAM = ("--model.optimizer=AdamW", "--model.optimizer.weight_decay=0.01", "--model.optimizer.fused=true")
RECIPE = ("--config", "best/any.yaml", "--model.label_smoothing=0", "--data.augmentation.epochs=null")
"""What is changed: the recipe without the two things that it has since this study."""


def rate(value: float) -> tuple[str, str]:
    return f"--model.optimizer.lr={value}", f"--model.scheduler.init_args.max_lr={value}"


CHANGES: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "AdamW, 1e-3": (*ADAM, *rate(1e-3)),
    "AdamW, 2e-3": (*ADAM, *rate(2e-3)),
    "AdamW, 4e-3": (*ADAM, *rate(4e-3)),
    "CoreMuon, 1.5e-3": rate(1.5e-3),
    "CoreMuon, 6e-3": rate(6e-3),
    "one layer of features": ("--model.features.hidden=null",),
    "one layer of features, AdamW 2e-3": ("--model.features.hidden=null", *ADAM, *rate(2e-3)),
    "Gaussian cores": (f"{FORMAT}initialization=gaussian", f"{FORMAT}gain=1.5"),
    "identity with gain 3": (f"{FORMAT}gain=3",),
    "weight decay 0.1": ("--model.optimizer.weight_decay=0.1",),
    "dropout of patches 0.1": ("--model.patch_dropout=0.1",),
    "labels smoothed by 0.1": ("--model.label_smoothing=0.1",),
    "averaged weights": ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.999"),
    "averaged weights, 0.99": ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.99"),
    "snake": ("--data.order=snake",),
    "rows, then columns": ("--data.order=[raster,columns]",),
    "mirrored images": ("--data.augmentation.flip=true",),
    "no augmentation": ("--data.augmentation.shift=0",),
    "turned and stretched": (
        *("--data.augmentation.rotation=10", "--data.augmentation.scaling=0.1", "--data.augmentation.shear=0.1"),
    ),
    "bent by a pixel": ("--data.augmentation.elastic=1",),
    "the last third of the epochs without augmentation": ("--data.augmentation.epochs={plain}",),
    "labels smoothed, and the last third plain": ("--model.label_smoothing=0.1", "--data.augmentation.epochs={plain}"),
    "different cores, r = 16": ("--model.format=TensorTrain", f"{FORMAT}rank=16", f"{FORMAT}gain=10"),
}
"""One thing changed: name, options of ``fit``; {plain} is the epoch after which images are as they are."""


def data_sets(names: list[str], folders: list[str]) -> dict[str, tuple[str, ...]]:
    """Name in the table, options of ``fit``."""
    found = {}
    for entry in names:
        name, equals, root = entry.partition("=")
        found[name] = (f"--data.dataset={name}", *([f"--data.root={root}"] if equals else []))
    for entry in folders:
        name, equals, root = entry.partition("=")
        if not equals:
            raise UserError(f"--folder is {entry}, it must be NAME=FOLDER")
        found[name] = ("--data.dataset=image_folder", f"--data.root={root}", "--data.offline_fallback=null")
    return found


def job(data: str, options: tuple[str, ...], change: str, epochs: int, seed: int) -> Job:
    name = "".join(c if c.isalnum() else "_" for c in f"optimization_{data}_{change}_e{epochs}".lower())
    plain = str(max(1, epochs - epochs // 3))
    words = (*RECIPE, *options, f"--trainer.max_epochs={epochs}")
    words += tuple(word.replace("{plain}", plain) for word in CHANGES[change])
    quiet = ("--rank_check.every_n_epochs=0", "--figures=false", "--wandb.mode=disabled", "--test_after_fit=false")
    return Job(name, (*words, *quiet), seed)


def row(outcomes: list[Outcome]) -> dict[str, Any]:
    if faults_of(outcomes):
        return {"fault": "not finite"}
    results = [outcome.run.result for outcome in outcomes]
    return {
        "val": [result["metrics"]["val/acc"] for result in results],
        "train": [result["metrics"]["train/acc"] for result in results],
        "parameters": results[0]["parameters"],
        "seconds": [result["seconds"] for result in results],
        "weights_sha256": [result["weights_sha256"] for result in results],
    }


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Rows are changes; a cell is the accuracy on the validation split, and in training."""
    changes = list(dict.fromkeys(change for of_data in found.values() for change in of_data))
    lines = [f"| change | parameters | {' | '.join(found)} |", "|---" * (2 + len(found)) + "|"]
    for change in changes:
        cells = [of_data.get(change) for of_data in found.values()]
        sizes = " / ".join(dict.fromkeys(f"{cell['parameters']:,}" for cell in cells if cell and "val" in cell))
        shown = [_shown(cell) for cell in cells]
        lines.append(f"| {change} | {sizes} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return cell["fault"] if "fault" in cell else f"{percent(cell['val'])} ({percent(cell['train'])})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", default=["mnist"], metavar="NAME[=FOLDER]")
    parser.add_argument("--folder", nargs="+", default=[], metavar="NAME=FOLDER", help="images by class")
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=None, help="runs side by side; all cores by default")
    parser.add_argument("--output", type=Path, default=Path("results/optimization_study"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    data, only, epochs, seeds = data_sets(options.datasets, options.folder), options.only, options.epochs, options.seeds
    if options.quick:
        data, only, epochs, seeds = data_sets(["mnist5k"], []), ["the recipe", "rows, then columns"], 1, 1
    wanted = [(name, change) for name in data for change in only]
    jobs = [job(name, data[name], change, epochs, seed) for name, change in wanted for seed in range(seeds)]
    outcomes = make_runs(jobs, options.jobs)
    if other := faults_of([each for each in outcomes if NOT_FINITE not in each.fault]):
        sys.exit(other)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in data}
    for index, (name, change) in enumerate(wanted):
        found[name][change] = row(outcomes[index * seeds : (index + 1) * seeds])
    print(table(found))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), {"epochs": epochs, "seeds": seeds, "rows": found})
    options.output.with_suffix(".md").write_text(table(found) + "\n")


if __name__ == "__main__":
    run_script(main)
