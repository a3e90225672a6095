"""The MNIST table: our recipes and the published protocol, over seeds, beside the published figures.

    python scripts/reproduce_table.py [--seeds 3] [--jobs 2] [--configs eq.yaml tt.yaml ...] [any option of fit]

Runs `python -m ttlightning fit` for every config and seed that has no result yet (a stopped script goes on where it
was), then prints a Markdown table from the result.json files. Fallback data are refused unless --allow-fallback.
A result is recognised by its config's name and its seed: give other options a $TTLIGHTNING_RUNS of their own.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ttlightning.runs import runs_root

CONFIGS = ("eq.yaml", "tt.yaml", "paper/a24_eq.yaml", "paper/a24_tt.yaml")
PUBLISHED = {"a24_eq": "76.2", "a24_tt": "95.4"}


def find_result(experiment: str, seed: int) -> dict[str, Any] | None:
    """The newest finished run of this experiment and seed."""
    files = sorted((runs_root() / experiment).glob("*/result.json"), key=lambda f: int(f.parent.name), reverse=True)
    results = (json.loads(file.read_text()) | {"run": str(file.parent)} for file in files)
    return next((result for result in results if result["seed"] == seed), None)


def run(config: str, seed: int, options: list[str]) -> None:
    """One fit, unless it is there already."""
    experiment = Path(config).stem
    if find_result(experiment, seed) is None:
        command = [
            sys.executable,
            "-m",
            "ttlightning",
            "fit",
            "--config",
            config,
            f"--seed_everything={seed}",
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}\n{done.stderr}")
        print(f"{experiment}, seed {seed}: done", file=sys.stderr)


def percent(values: list[float]) -> str:
    """Mean and every value, in percent."""
    return f"{100 * statistics.mean(values):.2f} ({', '.join(f'{100 * v:.2f}' for v in values)})"


def table(configs: list[str], seeds: range) -> str:
    """Markdown, one line for each config."""
    lines = [
        "| config | network | parameters | train accuracy | test accuracy, mean (each seed) | published |",
        "|---|---|---|---|---|---|",
    ]
    for config in configs:
        experiment = Path(config).stem
        results = [result for seed in seeds if (result := find_result(experiment, seed)) is not None]
        kind = "equal cores" if "eq" in experiment else "different cores"
        data = "" if all(r["dataset"] == "mnist" for r in results) else f" on {results[0]['dataset']}"
        metrics = [r["metrics"] for r in results]
        cells = [
            config,
            kind + data,
            f"{results[0]['parameters']:,}",
            percent([m["train/acc"] for m in metrics]),
            percent([m["test/acc"] for m in metrics]),
            PUBLISHED.get(experiment, ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS))
    parser.add_argument("--allow-fallback", action="store_true")
    options, overrides = parser.parse_known_args()
    overrides += [] if options.allow_fallback else ["--data.offline_fallback=null"]
    seeds = range(options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: run(*job, overrides), [(c, s) for s in seeds for c in options.configs]))
    print(table(options.configs, seeds))


if __name__ == "__main__":
    main()
