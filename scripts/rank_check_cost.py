"""How much of a run's time do its rank checks take, and how much of that is the width?

    python scripts/rank_check_cost.py [--config eq.yaml] [--seeds 3] [--jobs 1] [--output results/rank_check_cost.md]
        [--quick] [options of fit]

Makes the runs of a config as it stands, with the width on mixed images and without it, and divides the seconds of the
checks by the other seconds of the same fit. Both are taken in the same process, so a busy machine slows both. A run
that has a result in $TTLIGHTNING_RUNS is not made again. Prints mean and range over the seeds, and writes them.
--quick: debug.yaml, one seed; in a fit of less than a second the check before the first step, which the seconds of the
fit do not have, counts for more than the rest, so that the share says nothing.
"""

import argparse
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from ttlightning.commands.arguments import experiment_name
from ttlightning.commands.studies import Job, make_runs, require
from ttlightning.errors import UserError
from ttlightning.runs.files import write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

WAYS = {"with the width": (), "without": ("--rank_check.mixed_images=0",)}


def share(run: Run) -> float:
    """Seconds of the checks over the other seconds of the fit."""
    checks = run.result["rank_check_seconds"]
    return checks / (run.result["seconds"] - checks)


def spread(values: Sequence[float], unit: str, digits: int) -> str:
    """Mean and range."""
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def line(way: str, runs: Sequence[Run]) -> str:
    """One row of the table."""
    results = [run.result for run in runs]
    counts = sorted({len(run.checks_file.read_text().splitlines()) for run in runs})
    cells = [
        way,
        " or ".join(map(str, counts)),
        spread([result["seconds"] for result in results], " s", 1),
        spread([result["rank_check_seconds"] for result in results], " s", 2),
        spread([100 * share(run) for run in runs], " %", 2),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="eq.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("results/rank_check_cost.md"))
    parser.add_argument("--quick", action="store_true")
    options, words = parser.parse_known_args()
    config, seeds = ("debug.yaml", 1) if options.quick else (options.config, options.seeds)
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}, it must be at least 1")
    base = f"rank_check_cost_{experiment_name([config])}"
    jobs = [
        Job(f"{base}{'_narrow' * bool(more)}", ("--config", config, *words, "--wandb.mode=disabled", *more), seed)
        for seed in range(seeds)
        for more in WAYS.values()
    ]
    runs = require(make_runs(jobs, options.jobs))
    data = ", ".join(sorted({run.result["dataset"] for run in runs}))
    lines = [
        f"`{config}`, {data}, {seeds} seeds: mean (range). {cpu_name()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        "| rank checks | checks in a run | fit | checks | checks / rest of the fit |",
        "|---|---|---|---|---|",
        *(line(way, runs[number :: len(WAYS)]) for number, way in enumerate(WAYS)),
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, "\n".join([*lines, ""]).encode())
    print("\n".join(lines))


if __name__ == "__main__":
    run_script(main)
