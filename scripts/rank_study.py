"""Do trained networks come near a lower rank, and does accuracy care?

    python scripts/rank_study.py [--ranks 4 8 16] [--epochs 10] [--jobs 2] [--output results/rank_study] [--quick]

Trains eq.yaml and tt.yaml at several TT-ranks, with a rank check after every epoch, and draws over training: certified
CP-rank of the class tensors, smallest singular value and condition of the staircase's matrices T, validation accuracy.
A run that has a result of this configuration in $TTLIGHTNING_RUNS is not made again. --quick: one epoch on 4,000
digits, rank 2.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ttlightning.commands.studies import Job, make_runs, require
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.runs.files import write_json
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

CONFIGS = {"eq.yaml": "equal", "tt.yaml": "different"}


def job(config: str, rank: int, epochs: int, quick: bool) -> Job:
    """The run of one network."""
    name = f"rank_study_{CONFIGS[config]}_r{rank}_e{epochs}" + ("_quick" if quick else "")
    options = ("--config", config, f"--model.format.init_args.rank={rank}", f"--trainer.max_epochs={epochs}")
    options += ("--rank_check.every_n_epochs=1", "--test_after_fit=false", "--wandb.mode=disabled")
    return Job(name, (*options, *(["--data.dataset=mnist5k"] if quick else [])), seed=0)


def collect(run: Run) -> dict[str, Any]:
    """Accuracy and ranks over the epochs of a run."""
    checks = [json.loads(line) for line in run.checks_file.read_text().splitlines()]
    accuracy = [float(row["val/acc"]) for row in run.metrics if row.get("val/acc")]
    result = run.result
    return {
        "certified": [min(check["certified"]) if "certified" in check else None for check in checks],
        "smallest": [min(check["smallest_singular_value"]) for check in checks],
        "condition": [max(check["condition"]) for check in checks],
        "accuracy": accuracy,
        "mode_size": checks[-1]["mode_size"],
        "rank": checks[-1]["rank"],
        "sites": checks[-1]["sites"],
        "weights_sha256": result["weights_sha256"],
        "dataset": result["dataset"],
    }


def draw(studies: dict[str, dict[str, Any]], path: Path) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    ranks = sorted({study["rank"] for study in studies.values()})
    for name, study in studies.items():
        style = {"color": f"C{ranks.index(study['rank'])}", "linestyle": "-" if name.startswith("equal") else "--"}
        left.plot(study["smallest"], label=name, **style)
        middle.plot(study["condition"], **style)
        right.plot(range(1, 1 + len(study["accuracy"])), [100 * a for a in study["accuracy"]], **style)
    left.set(yscale="log", xlabel="epoch", ylabel="smallest singular value of the T_m")
    middle.set(yscale="log", xlabel="epoch", ylabel="largest condition of the T_m")
    right.set(xlabel="epoch", ylabel="validation accuracy, %")
    left.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("results/rank_study"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    ranks, epochs = ([2], 1) if options.quick else (options.ranks, options.epochs)
    wanted = [(config, rank) for rank in ranks for config in CONFIGS]
    outcomes = make_runs([job(*each, epochs, options.quick) for each in wanted], options.jobs)
    names = (f"{CONFIGS[config]}, r = {rank}" for config, rank in wanted)
    studies = {name: collect(run) for name, run in zip(names, require(outcomes), strict=True)}
    print(
        "| cores | epochs | certified / generic | smallest singular value, start to end | condition | val. accuracy |"
    )
    print("|---|---|---|---|---|---|")
    for name, study in studies.items():
        generic = generic_odd_even_rank(study["mode_size"], study["rank"], study["sites"])
        certified = f"{study['certified'][-1]:,} / {generic:,}"
        smallest, condition = study["smallest"], study["condition"]
        spans = f"{smallest[0]:.1e} to {smallest[-1]:.1e} | {condition[0]:.1e} to {condition[-1]:.1e}"
        print(f"| {name} | {len(study['accuracy'])} | {certified} | {spans} | {study['accuracy'][-1]:.2%} |")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output.with_suffix(".json"), studies)
    draw(studies, options.output.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
