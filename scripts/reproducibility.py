"""Is it the same again? Every property that this project promises, tried on every shipped recipe, as one table.

    python scripts/reproducibility.py [--quick] [--output results/reproducibility]

Reruns; every recipe, in 1 and 2 processes, with 1 and 16 steps in a call, stopped by SIGKILL, SIGTERM and SIGINT in its
first, its middle and its last epoch and resumed; 1, 2 and 4 processes; other numbers of threads; a disk that fills up,
and one that is read-only (where this user may mount one); runs started at one moment. Writes the table as Markdown and
everything behind it as JSON. A stopped script goes on with the next section, from OUTPUT.partial.json.
--quick stops one recipe.
Data: MNIST where it is, else mnist5k, which the stops are tried on.
"""

import argparse
import csv
import itertools
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from ttlightning.commands.configs import available_configs, find_config
from ttlightning.commands.main import main
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

SMALL = ["fit", "--config", "debug.yaml", "--trainer.max_epochs=4", "--trainer.enable_progress_bar=false",
         "--model.patch_dropout=0.1", "--trainer.log_every_n_steps=3", "--rank_check.every_n_epochs=2"]  # fmt: skip
STOPS = (
    (0.08, signal.SIGKILL), (0.25, signal.SIGTERM), (0.42, signal.SIGKILL), (0.58, signal.SIGINT),
    (0.75, signal.SIGTERM), (0.95, signal.SIGKILL),
)  # fmt: skip
"""When a run of three epochs is stopped, as a part of all rows of its table, and how: before and after checkpoints."""

Row = tuple[str, str, int, str]  # property, how it was tried, trials, result
Section = tuple[list[Row], Any]  # rows of the table, and what is behind them


def outcome(run: Path) -> dict[str, Any]:
    """Everything of a run that must come out the same."""
    finished = Run(run)
    result = finished.result
    del result["seconds"], result["rank_check_seconds"]
    files = (finished.metrics_file, finished.checks_file, finished.certificate_file, finished.config_file)
    return {"result": result} | {file.name: file.read_text() for file in files}


def command(root: Path, *words: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m ttlightning`, its runs under ``root``."""
    surroundings = os.environ | {"TTLIGHTNING_RUNS": str(root), "WANDB_MODE": "disabled"} | environment
    command = [sys.executable, "-m", "ttlightning", *words]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with exit code {done.returncode}\n{done.stderr}")
    return done


def child(root: Path, words: list[str], surroundings: Mapping[str, str] | None = None) -> multiprocessing.Process:
    """The same as a fork of this process, which has everything imported: a process of its own all the same."""

    def run() -> None:
        os.environ |= {"TTLIGHTNING_RUNS": str(root), "WANDB_MODE": "disabled", **(surroundings or {})}
        with (root / "log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            main(words)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def rows(run: Path) -> int:
    """Rows of the table so far: how far a run has come, seen from outside."""
    try:
        return Run(run).metrics_file.read_bytes().count(b"\n")
    except FileNotFoundError:  # also where a run without a checkpoint starts again and removes its rows meanwhile
        return 0


def ranks(root: Path, words: list[str], world: int) -> list[multiprocessing.Process]:
    """A run in one process, or in several as torchrun starts them."""
    if world == 1:
        return [child(root, words)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "GROUP_RANK": "0",
               "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "stops", "OMP_NUM_THREADS": "1"}  # fmt: skip
    return [child(root, words, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world)]


def stop(root: Path, run: Path, words: list[str], world: int, row: int, number: signal.Signals) -> dict[str, Any]:
    """Start a run, wait for a row of its table, and stop it: all its processes by SIGKILL, the last one by others."""
    processes = ranks(root, words, world)
    while processes[0].is_alive() and rows(run) < row:
        time.sleep(0.0005)
    checkpoint = Run(run).checkpoint
    written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    for process in processes if number == signal.SIGKILL else processes[-1:]:
        if process.is_alive():
            os.kill(process.pid, number)
    for process in processes:
        process.join()
    return {"signal": number.name, "row": rows(run), "checkpoint": written > 0, "exit_code": processes[0].exitcode}


def stopped_and_resumed(folder: Path, words: list[str], world: int) -> dict[str, Any]:
    """A run to its end; the same, stopped six times, twice in its first, its middle and its last epoch, and resumed."""
    whole, stopped = folder / "whole", folder / "stopped"
    stopped.mkdir(parents=True)
    finish(whole, words, world)
    last, run, stops, now = rows(whole / "r/0"), stopped / "r/0", [], words
    for part, number in STOPS:
        stops.append(stop(stopped, run, now, world, max(1, int(part * last)), number))
        if (state := Run(run).state) != "new":
            now = ["fit", "--ckpt_path", str(run)]
        if state == "finished":
            break
    if Run(run).state != "finished":
        finish(stopped, now, world)
    one, two = outcome(whole / "r/0"), outcome(run)
    differ = [name for name in one if one[name] != two[name]]
    return {"words": words, "processes": world, "rows": last, "stops": stops, "bitwise": not differ, "differ": differ}


def finish(root: Path, words: list[str], world: int = 1) -> None:
    """A run to its end, in forks."""
    root.mkdir(parents=True, exist_ok=True)
    processes = ranks(root, words, world)
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"{words} ended with {[p.exitcode for p in processes]}\n{(root / 'log').read_text()}")


def recipes() -> list[tuple[str, list[str]]]:
    """Every shipped recipe; and the formats that none of them has, in the one that is for all formats."""
    others = ("CanonicalPolyadic", "HierarchicalTucker", "SharedHierarchicalTucker")
    widths = [("paper/k18_widths.yaml", [f"--model.format={name}"]) for name in others]
    return [*((name, []) for name in available_configs()), *widths]


def stops(folder: Path, quick: bool) -> Section:
    """Every recipe in 1 and 2 processes, with 1 and with 16 steps in a call: its schedule, augmentation, everything."""
    table, detail = [], []
    for name, options in [("toy/moons.yaml", [])] if quick else recipes():
        config = yaml.safe_load(find_config(name).read_text())["data"]
        digits = isinstance(config, str) or config["dataset"] in ("mnist", "mnist5k")
        found = []
        for world, steps in ((1, 16),) if quick else itertools.product((1, 2), (1, 16)):
            words = ["fit", f"--config={name}", *options, "--experiment=r", "--trainer.max_epochs=3",
                     f"--data.steps_per_execution={steps}", "--trainer.log_every_n_steps=1",
                     "--trainer.accelerator=cpu",
                     f"--last_checkpoint.every_n_steps={16 if digits else 4}", f"--trainer.devices={world}",
                     *(["--data.dataset=mnist5k"] if digits else []),
                     *(["--trainer.strategy=ddp"] if world > 1 else [])]  # fmt: skip
            found.append(stopped_and_resumed(folder / "trial", words, world))
            shutil.rmtree(folder / "trial")
        detail += found
        title = " ".join(["exact resume:", name, *(word.partition("=")[2] for word in options)])
        table.append(row_of_stops(title, found))
        print(" | ".join(map(str, table[-1])), flush=True)
    return table, detail


def row_of_stops(title: str, found: list[dict[str, Any]]) -> Row:
    """How often a recipe was stopped, by which signals, in which third of its rows, and whether it could go on."""
    stops = [(stop, trial) for trial in found for stop in trial["stops"]]
    signals = [stop["signal"] for stop, _ in stops]
    thirds = [min(2, 3 * stop["row"] // trial["rows"]) for stop, trial in stops]
    early = sum(not stop["checkpoint"] for stop, _ in stops)
    counts = ", ".join(f"{signals.count(name)} {name}" for name in sorted(set(signals)))
    how = (
        f"1 and 2 processes, 1 and 16 steps in a call; stopped {len(stops)} times ({counts}), in the first, middle and "
        f"last epoch {', '.join(str(thirds.count(part)) for part in range(3))} times, {early} before any checkpoint"
    )
    return title, how, len(found), verdict([trial["bitwise"] for trial in found])


def verdict(same: list[bool]) -> str:
    return f"{sum(same)} of {len(same)} bitwise identical"


def reruns(folder: Path, quick: bool) -> Section:
    """Every recipe, its first epoch, again by the command."""
    codes: dict[str, int] = {}
    for number, (name, options) in enumerate(recipes()[:1] if quick else recipes()):
        words = ["fit", f"--config={name}", *options, "--experiment=r", "--trainer.max_epochs=1"]
        finish(folder / f"reruns{number}", words)
        again = command(folder / f"reruns{number}", "rerun", f"{folder}/reruns{number}/r/0", check=False)
        codes[" ".join([name, *options])] = again.returncode
    how = "every recipe, one epoch: python -m ttlightning rerun RUN"
    return [("bitwise rerun", how, len(codes), verdict([code == 0 for code in codes.values()]))], codes


def threads(folder: Path) -> Section:
    for number in (1, 2):
        command(folder / "threads", *SMALL, "--data.steps_per_execution=4", OMP_NUM_THREADS=str(number))
    one, two = (outcome(folder / f"threads/debug/{n}") for n in (0, 1))
    return [("threads", "1 and 2 threads, debug.yaml", 1, verdict([one == two]))], None


def steps(run: Path) -> list[float]:
    return [float(row["train/loss_step"]) for row in Run(run).metrics if row["train/loss_step"]]


def worlds(folder: Path) -> Section:
    """One epoch of eq.yaml in 1, 2 and 4 processes: every step's loss, and the class that every test image gets."""
    losses: dict[tuple[int, int], list[float]] = {}
    said: dict[tuple[int, int], list[str]] = {}
    weights = {}
    for virtual in (1, 4):
        for world in (1, 2, 4):
            root = folder / f"world{world}-{virtual}"
            command(root, "fit", "--config=eq.yaml", "--experiment=w", "--trainer.max_epochs=1",
                f"--trainer.devices={world}", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1",
                f"--data.microbatches={virtual}", *(["--trainer.strategy=ddp"] if world > 1 else []))  # fmt: skip
            command(root, "predict", "--ckpt_path", f"{root}/w/0", "--output", f"{root}/p.csv", "--trainer.devices=1",
                "--trainer.strategy=auto")  # fmt: skip
            losses[virtual, world] = steps(root / "w/0")
            weights[virtual, world] = Run(root / "w/0").result["weights_sha256"]
            with (root / "p.csv").open(newline="") as table:
                said[virtual, world] = [row["predicted"] for row in csv.DictReader(table)]
    table, apart = [], {}
    for virtual, world in ((1, 2), (1, 4), (4, 2), (4, 4)):
        pairs = list(zip(losses[virtual, 1], losses[virtual, world], strict=True))
        relative = [abs(a - b) / abs(a) for a, b in pairs]
        others = sum(a != b for a, b in zip(said[virtual, 1], said[virtual, world], strict=True))
        ends = [len(relative) // 8, len(relative) // 4, len(relative) // 2, len(relative)]
        apart[f"{world} processes, microbatches {virtual}"] = {
            "largest relative difference of a step's loss": {f"first {e} steps": max(relative[:e]) for e in ends},
            "steps above 1e-6": sum(r > 1e-6 for r in relative),
            "steps": len(relative),
            "test images classed otherwise": others,
            "same weights_sha256": weights[virtual, 1] == weights[virtual, world],
        }
        name = f"{world} processes" + (", microbatches 4" if virtual > 1 else "")
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
        goes_on = ["fit", "--ckpt_path", f"{place}/debug/0"]
        refused = [command(place, *attempt, check=False) for attempt in (words, goes_on)]
        untouched = sorted(place.rglob("*")) == before
    finally:
        subprocess.run(["umount", str(place)], check=True)
    complete = torch.load(Run(room / "debug/0").checkpoint, weights_only=True)["epoch"]
    finish(room, ["fit", "--ckpt_path", f"{room}/debug/0"])
    finish(folder / "never-full", words)
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
        head = f"| largest relative difference to one process | {' | '.join(spans)} |"
        lines += ["", head, "|---" * (len(spans) + 1) + "|"]
        for name, entry in differences.items():
            lines.append(f"| {name} | {' | '.join(f'{size:.1e}' for size in entry.values())} |")
    return "\n".join(lines)


def run_all() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one recipe, stopped")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md")
    options = parser.parse_args()
    quick, partial = options.quick, options.output.with_suffix(".partial.json") if options.output else None
    found: dict[str, Any] = read_json(partial) if partial and partial.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections: dict[str, Callable[[], Section]] = {
            "reruns": lambda: reruns(folder, quick),
            "stops": lambda: stops(folder, quick),
            "worlds": lambda: worlds(folder),
            "threads": lambda: threads(folder),
            "disk": lambda: full_disk(folder),
            "at once": lambda: at_once(folder, 4),
        }
        for section in ("stops",) if quick else sections:
            if section not in found:
                table, detail = sections[section]()
                machine = f"{cpu_name()}, torch {torch.__version__}"
                found[section] = {"machine": machine, "table": table, "detail": detail}
                if partial:
                    write_json(partial, found)
    text = report(found)
    print(text)
    if partial:
        options.output.with_suffix(".md").write_text(text + "\n")
        partial.replace(options.output.with_suffix(".json"))


if __name__ == "__main__":
    run_script(run_all)
