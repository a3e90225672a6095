"""Processor's seconds of S single `fit` and of `fit --seeds_at_once S`, and whether the weights are the same.

    python scripts/seeds_at_once.py [--seeds 4] [options of fit]

Without options debug.yaml is trained. Times are of all processes, with imports; other programs change them little.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from ttlightning.system.output import run_script


def processor_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fit(root: Path, words: list[str]) -> float:
    """Run `fit` with its runs below this folder; its processor's seconds."""
    before = processor_seconds()
    environment = os.environ | {"TTLIGHTNING_RUNS": str(root), "WANDB_MODE": "disabled"}
    call = [sys.executable, "-m", "ttlightning", "fit", *words, "--trainer.enable_progress_bar=false"]
    subprocess.run(call, env=environment, stdout=subprocess.DEVNULL, check=True)
    return processor_seconds() - before


def weights(root: Path) -> dict[int, str]:
    """Hash of the weights of each seed."""
    results = [json.loads(file.read_text()) for file in root.glob("*/*/result.json")]
    return {result["seed"]: result["weights_sha256"] for result in results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    options, words = parser.parse_known_args()
    words = words or ["--config", "debug.yaml"]
    with tempfile.TemporaryDirectory() as name:
        single, together = Path(name, "single"), Path(name, "together")
        singles = [fit(single, [*words, f"--seed_everything={seed}"]) for seed in range(options.seeds)]
        at_once = fit(together, [*words, f"--seeds_at_once={options.seeds}"])
        same = weights(single) == weights(together) and len(weights(single)) == options.seeds
    print(f"{options.seeds} single: {sum(singles):.1f} s ({min(singles):.1f} to {max(singles):.1f} each)")
    print(f"{options.seeds} at once: {at_once:.1f} s, {sum(singles) / at_once:.2f} times less")
    print(f"the same weights: {same}")


if __name__ == "__main__":
    run_script(main)
