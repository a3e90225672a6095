"""Is it the same again? Every property that this project promises, tried out, as one table.

    python scripts/reproducibility.py [--kills 24] [--quick] [--output results/reproducibility]

Reruns; runs killed by SIGKILL, SIGTERM and SIGINT at random moments and resumed; 1, 2 and 4 processes; other numbers of
threads; a disk that fills up, and one that is read-only (where this user may mount one); runs started at one moment.
Writes the table as Markdown and everything behind it as JSON, a section at a time: a stopped script goes on with the
next. It takes about 15 minutes; --quick kills one run only. Data: MNIST where it is, else mnist5k, which the kills are
tried on.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ttlightning.cli import main
from ttlightning.machine import cpu_name
from ttlightning.runs import read_json, write_json

SMALL = ["fit", "--config", "debug.yaml", "--trainer.max_epochs=4", "--trainer.enable_progress_bar=false",
         "--model.patch_dropout=0.1", "--trainer.log_every_n_steps=3", "--rank_check.every_n_epochs=2"]  # fmt: skip
KINDS = (
    [],
    ["--data.steps_per_call=4"],
    ["--data.steps_per_call=4", "--last_checkpoint.every_n_steps=7"],
    ["--last_checkpoint.every_n_steps=5", "--model.format=TensorTrain", "--data.virtual_devices=2"],
)
"""Steps made by Lightning or by us, checkpoints at epochs' ends or within, both kinds of cores."""
FILES = ("metrics.csv", "rank/checks.jsonl", "rank/certificate.json", "config.yaml")

Row = tuple[str, str, int, str]  # property, how it was tried, trials, result
Section = tuple[list[Row], Any]  # rows of the table, and what is behind them


def outcome(run: Path) -> dict[str, Any]:
    """Everything of a run that must come out the same."""
    result = json.loads((run / "result.json").read_text())
    del result["seconds"], result["rank_check_seconds"]
    return {"result": result} | {name: (run / name).read_text() for name in FILES}


def command(root: Path, *words: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m ttlightning`, its runs under ``root``."""
    surroundings = os.environ | {"TTLIGHTNING_RUNS": str(root), "WANDB_MODE": "disabled"} | environment
    command = [sys.executable, "-m", "ttlightning", *words]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with exit code {done.returncode}\n{done.stderr}")
    return done


def child(root: Path, words: list[str]) -> multiprocessing.Process:
    """The same as a fork of this process, which has everything imported: a process of its own all the same."""

    def run() -> None:
        os.environ |= {"TTLIGHTNING_RUNS": str(root), "WANDB_MODE": "disabled"}
        with (root / "log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            main(words)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def fit(root: Path, *words: str) -> None:
    """A run to its end, in a fork."""
    root.mkdir(exist_ok=True)
    process = child(root, list(words))
    process.join()
    if process.exitcode:
        raise SystemExit(f"{words} ended with exit code {process.exitcode}\n{(root / 'log').read_text()}")


def rows(run: Path) -> int:
    """Rows of the table so far: how far a run has come, seen from outside."""
    table = run / "metrics.csv"
    return table.read_bytes().count(b"\n") if table.exists() else 0


def kill_and_resume(root: Path, kind: list[str], whole: dict[str, Any], seed: int) -> dict[str, Any]:
    """Stop a run at one or two random moments, let it go on to its end, and compare it with the one never stopped."""
    chance = random.Random(seed)
    root.mkdir()
    run, words, stops = root / "debug" / "0", [*SMALL, *kind], []
    last = whole["metrics.csv"].count("\n")
    for _ in range(chance.choice((1, 2))):
        target, wait = chance.randint(rows(run), last), chance.random() * 0.1
        process = child(root, words)
        while process.is_alive() and rows(run) < target:
            time.sleep(0.001)
        time.sleep(wait)
        number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        if process.is_alive():
            os.kill(process.pid, number)
        process.join()
        stops.append({"signal": number.name, "row": rows(run), "of": last, "exit_code": process.exitcode})
        words = ["fit", "--ckpt_path", str(run)] if (run / "config.yaml").exists() else words
        if (run / "result.json").exists():
            break
    if not (run / "result.json").exists():
        fit(root, *words)
    same = outcome(run) == whole
    return {"kind": kind, "seed": seed, "stops": stops, "bitwise": same}


def kills(folder: Path, trials: int) -> Section:
    wholes = []
    for number, kind in enumerate(KINDS[:trials]):
        fit(folder / f"whole{number}", *SMALL, *kind)
        wholes.append(outcome(folder / f"whole{number}/debug/0"))
    found = [
        kill_and_resume(folder / f"kill{t}", KINDS[t % len(KINDS)], wholes[t % len(KINDS)], t) for t in range(trials)
    ]
    stopped = [stop for trial in found for stop in trial["stops"]]
    names = sorted({stop["signal"] for stop in stopped})
    counts = ", ".join(f"{sum(stop['signal'] == name for stop in stopped)} {name}" for name in names)
    how = f"stopped at random moments ({counts}), resumed by fit --ckpt_path; weights, metrics.csv, checks, certificate"
    return [("exact resume", how, trials, verdict([t["bitwise"] for t in found]))], found


def verdict(same: list[bool]) -> str:
    return f"{sum(same)} of {len(same)} bitwise identical"


def reruns(folder: Path, trials: int) -> Section:
    same: list[bool] = []
    for seed in range(trials):
        words = [*SMALL, *KINDS[seed % len(KINDS)], f"--seed_everything={seed}"]
        fit(folder / "reruns", *words)
        same.append(
            command(folder / "reruns", "rerun", f"{folder}/reruns/debug/{2 * seed}", check=False).returncode == 0
        )
    how = "python -m ttlightning rerun RUN; kinds of runs and seeds as they come"
    return [("bitwise rerun", how, trials, verdict(same))], same


def threads(folder: Path) -> Section:
    for number in (1, 2):
        command(folder / "threads", *SMALL, "--data.steps_per_call=4", OMP_NUM_THREADS=str(number))
    one, two = (outcome(folder / f"threads/debug/{n}") for n in (0, 1))
    return [("threads", "1 and 2 threads, debug.yaml", 1, verdict([one == two]))], None


def steps(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as table:
        return [float(row["train/loss_step"]) for row in csv.DictReader(table) if row["train/loss_step"]]


def worlds(folder: Path) -> Section:
    """One epoch of eq.yaml in 1, 2 and 4 processes: every step's loss, and the class that every test image gets."""
    losses: dict[tuple[int, int], list[float]] = {}
    said: dict[tuple[int, int], list[str]] = {}
    weights = {}
    for virtual in (1, 4):
        for world in (1, 2, 4):
            root = folder / f"world{world}-{virtual}"
            devices = [f"--trainer.devices={world}", "--trainer.accelerator=cpu"]
            words = [
                "fit",
                "--config",
                "eq.yaml",
                "--experiment=w",
                "--trainer.max_epochs=1",
            ]
            command(root, *words, *devices, *(["--trainer.strategy=ddp"] if world > 1 else []),
                "--trainer.log_every_n_steps=1", f"--data.virtual_devices={virtual}")  # fmt: skip
            command(root, "predict", "--ckpt_path", f"{root}/w/0", "--output", f"{root}/p.csv", "--trainer.devices=1",
                "--trainer.strategy=auto")  # fmt: skip
            losses[virtual, world] = steps(root / "w/0")
            weights[virtual, world] = json.loads((root / "w/0/result.json").read_text())["weights_sha256"]
            with (root / "p.csv").open(newline="") as table:
                said[virtual, world] = [row["predicted"] for row in csv.DictReader(table)]
    table, apart = [], {}
    for virtual, world in ((1, 2), (1, 4), (4, 2), (4, 4)):
        pairs = list(zip(losses[virtual, 1], losses[virtual, world], strict=True))
        relative = [abs(a - b) / abs(a) for a, b in pairs]
        others = sum(a != b for a, b in zip(said[virtual, 1], said[virtual, world], strict=True))
        ends = [len(relative) // 8, len(relative) // 4, len(relative) // 2, len(relative)]
        apart[f"{world} processes, virtual_devices {virtual}"] = {
            "largest relative difference of a step's loss": {f"first {e} steps": max(relative[:e]) for e in ends},
            "steps above 1e-6": sum(r > 1e-6 for r in relative),
            "steps": len(relative),
            "test images classed otherwise": others,
            "same weights_sha256": weights[virtual, 1] == weights[virtual, world],
        }
        name = f"{world} processes" + (", virtual_devices 4" if virtual > 1 else "")
        how = f"loss of each of the {len(relative)} steps of an epoch against one process, gloo"
        result = f"at most {max(relative):.1e}, above 1e-6 at {sum(r > 1e-6 for r in relative)} steps"
        if virtual > 1:
            result = f"at most {max(relative):.0e}; {verdict([weights[virtual, 1] == weights[virtual, world]])}"
        table.append((name, how, 1, f"{result}; {others} of {len(said[1, 1]):,} predictions differ"))
    return table, apart


def mount(place: Path, *options: str) -> bool:
    """A file system of a megabyte at ``place``, where this user may mount one."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def full_disk(folder: Path) -> Section:
    """A file system fills up during training; moved to one with room, the run goes on. Read-only, it takes nothing."""
    place, room, words = folder / "small", folder / "room", [*SMALL, "--checkpoint.save_top_k=-1"]
    if not mount(place):
        return [("full disk", "not tried: this user may not mount a file system", 0, "")], None
    try:
        (place / "ballast").write_bytes(bytes(930 << 10))  # leaves room for an epoch or two
        full = command(place, *words, check=False)
        shutil.copytree(place / "debug/0", room / "debug/0")
        mount(place, "remount", "ro")
        before = sorted(place.rglob("*"))
        refused = [
            command(place, *words, check=False),
            command(place, "fit", "--ckpt_path", f"{place}/debug/0", check=False),
        ]
        untouched = sorted(place.rglob("*")) == before
    finally:
        subprocess.run(["umount", str(place)], check=True)
    complete = torch.load(room / "debug/0/checkpoints/last.ckpt", weights_only=True)["epoch"]
    fit(room, "fit", "--ckpt_path", f"{room}/debug/0")
    fit(folder / "never-full", *words)
    same = verdict([outcome(room / "debug/0") == outcome(folder / "never-full/debug/0")])
    said = full.stderr.strip().splitlines()[-1].replace(str(folder), "")
    how = f"a file system of 1 MiB, full after epoch {complete + 1}; copied to one with room and resumed"
    lines = [done.stderr.strip().splitlines()[-1].replace(str(folder), "") for done in refused]
    codes = ", ".join(f"exit code {done.returncode}: {line}" for done, line in zip(refused, lines, strict=True))
    return [
        ("full disk", how, 1, f"exit code {full.returncode}: {said}; {same}"),
        ("read-only disk", "a new run, and resuming one", 2, f"{codes}; {'untouched' if untouched else 'CHANGED'}"),
    ], None


def at_once(folder: Path, number: int) -> Section:
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(lambda _: command(folder / "at-once", *SMALL), range(number)))
    found = [outcome(folder / f"at-once/debug/{n}") for n in range(number)]
    how = f"{number} processes started together: a directory each"
    return [("started at one moment", how, number, verdict([one == found[0] for one in found]))], None


def report(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    lines = ["| property | how | trials | result |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(map(str, row))} |" for section in found.values() for row in section["table"]]
    if worlds := found.get("worlds"):
        differences = {
            name: entry["largest relative difference of a step's loss"] for name, entry in worlds["detail"].items()
        }
        spans = list(next(iter(differences.values())))
        lines += [
            "",
            f"| largest relative difference to one process | {' | '.join(spans)} |",
            "|---" * (len(spans) + 1) + "|",
        ]
        lines += [
            f"| {name} | {' | '.join(f'{size:.1e}' for size in entry.values())} |"
            for name, entry in differences.items()
        ]
    return "\n".join(lines)


def run_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="one killed run")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md; what is there is not tried again")
    options = parser.parse_args()
    quick, file = options.quick, options.output.with_suffix(".json") if options.output else None
    found: dict[str, Any] = read_json(file) if file and file.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections: dict[str, Callable[[], Section]] = {
            "reruns": lambda: reruns(folder, 4),
            "kills": lambda: kills(folder, 1 if quick else options.kills),
            "worlds": lambda: worlds(folder),
            "threads": lambda: threads(folder),
            "disk": lambda: full_disk(folder),
            "at once": lambda: at_once(folder, 4),
        }
        for section in ("kills",) if quick else sections:
            if section not in found:
                rows, detail = sections[section]()
                found[section] = {
                    "machine": f"{cpu_name()}, torch {torch.__version__}",
                    "table": rows,
                    "detail": detail,
                }
                if file:
                    write_json(file, found)
    text = report(found)
    print(text)
    if options.output:
        options.output.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    run_all()
