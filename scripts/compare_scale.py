"""Time and memory of ``compare`` over many runs, on small synthetic run directories.

    python scripts/compare_scale.py [--runs 2000] [--epochs 20] [--repetitions 3] [--folder DIR] [--html]

The runs are 50 combinations of TT-rank and learning rate with equally many seeds. Their config.yaml is the complete one
of eq.yaml, their other files have the size of a real run's. ``compare`` runs as a process of its own: wall-clock time
with its start, processor time, and its largest resident memory (VmHWM of Linux). A first call, which is not counted,
brings the files into the system's cache.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ttlightning.commands.studies import configuration
from ttlightning.system.output import run_script

COMBINATIONS = 50
COMPARE = """
import re, sys
from pathlib import Path
from ttlightning.commands.main import main
memory = Path(sys.argv.pop(1))
try:
    main(["compare", *sys.argv[1:]])
finally:
    memory.write_text(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def write_runs(folder: Path, runs: int, epochs: int) -> None:
    """``runs`` finished runs in ``folder/0``, ``folder/1``, ..."""
    whole = configuration(("--config=eq.yaml",))
    for number in range(runs):
        write_run(folder / str(number), whole, number % COMBINATIONS, number // COMBINATIONS, epochs)


def write_run(path: Path, whole: dict[str, Any], combination: int, seed: int, epochs: int) -> None:
    """The four files of a run that ``compare`` may read."""
    path.mkdir(parents=True)
    config = copy.deepcopy(whole) | {"seed_everything": seed}
    config["model"]["format"]["init_args"]["rank"] = 2 + combination % 10
    config["model"]["optimizer"]["init_args"]["lr"] = 1e-3 * (1 + combination // 10)
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    accuracy = 0.9 + 0.001 * combination + 0.0001 * (seed * 7 % 11)
    packages = {f"package-{index}": "1.2.3" for index in range(150)}
    provenance = {"started": "2024-01-01T00:00:00", "dataset": {"name": "mnist", "sha256": "d" * 64},
                  "packages": packages, "git": {"commit": "c" * 40, "dirty_diff_sha256": None}}  # fmt: skip
    (path / "provenance.json").write_text(json.dumps(provenance, indent=2))
    result = {
        "experiment": "eq", "dataset": "mnist", "seed": seed, "parameters": 1000 + combination, "seconds": 60.0,
        "metrics": {"train/acc": accuracy, "val/acc": accuracy, "test/acc": accuracy},
        "weights_sha256": f"{combination * 1000 + seed:064x}",
        "rank": {"certified": [100] * 10, "width_images": 64, "width_10_percent": 9, "width_1_percent": 30},
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(result, indent=2))
    rows = "".join(f"{epoch},{step},{2 / (1 + epoch)},{accuracy},,\n" for epoch in range(epochs) for step in range(20))
    (path / "metrics.csv").write_text(f"epoch,step,train/loss,val/acc,rank/certified,rank/width_10_percent\n{rows}")


def measure(words: list[str], memory: Path) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and MiB of ``compare`` with these words; its memory goes through a file."""
    started, busy = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, "-c", COMPARE, str(memory), *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started, processor_seconds() - busy, int(memory.read_text()) / 1024


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="an empty folder for the runs, which are kept; default: a temporary one"
    )
    parser.add_argument("--html", action="store_true", help="measure the page too, which reads every metrics.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / "eq"
        if not folder.exists():
            write_runs(folder, options.runs, options.epochs)
        print("| command | runs | seconds, median (least to most) | of them of the processor | largest memory, MiB |")
        print("|---|---:|---:|---:|---:|")
        for what in ("table", "page")[: 1 + options.html]:
            found = []
            for repetition in range(options.repetitions + 1):
                page = Path(temporary) / f"{repetition}.html"
                words = [str(folder), *([f"--html={page}"] if what == "page" else [])]
                found.append(measure(words, Path(temporary) / "memory"))
            seconds, busy, memory = zip(*found[1:], strict=True)
            columns = (what, f"{options.runs:,}", spread(seconds), spread(busy), f"{max(memory):,.0f}")
            print("|", " | ".join(columns), "|", flush=True)


if __name__ == "__main__":
    run_script(main)
