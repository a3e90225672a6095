"""How long a command takes to answer: seconds and memory of each verb, and seconds to the first lines of `fit`.

    python scripts/startup.py [--processes 5]

Every measurement is a process of its own. The median, the fastest and the slowest are printed, and the largest resident
memory of any. The second line of `fit` is the first one after Lightning is imported.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from rich.table import Table

from ttlightning.system.output import print_whole, run_script

FIT: Final = ("fit", "--config=debug.yaml", "--data.dataset=mnist5k", "--wandb.mode=disabled", "--figures=false")
COMMANDS: Final = (
    ("--help",),
    ("rank",),
    ("certify", "--mode_size=3", "--rank=2", "--sites=8"),
    ("verify", "generic-n3-r2-d8.json"),
    ("certify", "runs/debug/0", "--output=run.json"),
    ("verify", "run.json"),
    ("compare", "runs/debug"),
    ("rank", "--help"),
    ("certify", "--help"),
    ("verify", "--help"),
    ("compare", "--help"),
    ("rerun", "--help"),
    ("fit", "--help"),
)


class Measured(NamedTuple):
    """Seconds to each line of output and, at last, to the end; peak of resident memory in MB."""

    seconds: list[float]
    memory: float


def measure(folder: Path, *words: str) -> Measured:
    """Run one command in a fresh process; ``RuntimeError`` if it fails."""
    environment = os.environ | {"TTLIGHTNING_RUNS": str(folder / "runs")}
    command = [sys.executable, "-m", "ttlightning", *words]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        seconds = [time.perf_counter() - started for _ in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with exit code {process.returncode}")
    return Measured([*seconds, time.perf_counter() - started], usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5, help="of each command")
    count = parser.parse_args().processes
    table = Table("command", "seconds", "fastest", "slowest", "MB")

    def add_row(name: str, measured: list[Measured], line: int = -1) -> None:
        seconds = [one.seconds[line] for one in measured]
        numbers = (statistics.median(seconds), min(seconds), max(seconds))
        memory = max(one.memory for one in measured)
        table.add_row(name, *(f"{number:.2f}" for number in numbers), f"{memory:,.0f}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fits = [measure(folder, *FIT, f"--seed_everything={seed}") for seed in range(count)]
        add_row("fit, line 1", fits, 0)
        add_row("fit, line 2", fits, 1)
        for words in COMMANDS:
            measured = []
            for _ in range(count):
                if words[0] == "certify":
                    for certificate in folder.glob("*.json"):
                        certificate.unlink()
                measured.append(measure(folder, *words))
            add_row(" ".join(words), measured)
    print(f"{platform.machine()}, Python {platform.python_version()}, {count} processes of each command")
    print_whole(table)


if __name__ == "__main__":
    run_script(main)
