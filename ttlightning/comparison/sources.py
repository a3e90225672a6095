"""Read the runs of ``compare`` from run directories, their folders, and Weights & Biases."""

import glob
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttlightning.comparison.records import ACCURACIES, CURVES, WIDTHS, Record
from ttlightning.errors import UserError
from ttlightning.runs.masking import scrub
from ttlightning.runs.run import Run, is_run

WANDB_PATIENCE: Final = 30
"""Seconds for one answer of W&B."""


def find_runs(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Finished and unfinished run directories, without repetitions.

    Args:
        names: run directories, folders of runs, or patterns with ``*``, ``?`` and ``[...]`` for both. A run that is
            named itself counts as finished: reading it says what is missing.

    Raises:
        UserError: if a name stands for no run.
    """
    runs: dict[Path, Path] = {}
    named: set[Path] = set()
    for name in names:
        path = Path(os.path.expanduser(name))  # noqa: PTH111, Path's own ends in an error for ~nobody
        if is_run(path):
            named.add(path.resolve())
        folders = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path)), key=_natural)]  # noqa: PTH207
        inside = [run for folder in folders for run in _runs_in(folder)]
        if not inside:
            fault = "holds no run directory" if folders else "does not exist"
            raise UserError(f"{name} {fault}; name a run such as runs/eq/0, its folder runs/eq, or 'runs/eq*/[0-2]'")
        for run in inside:
            runs.setdefault(run.resolve(), run)
    unfinished = [run for key, run in runs.items() if key not in named and not Run(run).result_file.is_file()]
    return [run for run in runs.values() if run not in unfinished], unfinished


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, if it is a run; else the runs in it, sorted by number."""
    if is_run(folder) or not folder.is_dir():
        return [folder] if folder.is_dir() else []
    return sorted((run for run in folder.iterdir() if is_run(run)), key=lambda run: _natural(run.name))


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 9 before 10."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", text)]


def read_record(run: Path, curves: bool) -> Record:
    """The record of a finished run's directory.

    Args:
        curves: whether to read its table of metrics.

    Raises:
        UserError: where it is not finished, or a file is missing or cannot be read.
    """
    finished = Run.open(run, finished=True)
    logged = finished.logged(CURVES) if curves else {}
    return _record(scrub(str(run)), finished.config, finished.provenance, finished.result, logged)


def wandb_records(project: str, curves: bool) -> tuple[list[Record], list[str]]:
    """Records of the finished runs of ``entity/project`` at W&B, and the paths of the others.

    Raises:
        UserError: where W&B cannot be reached, or knows no such project or user.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise UserError(f"--wandb is {project!r}, it must be entity/project")
    import wandb  # takes a second, and only this needs it
    from wandb.apis.normalize import normalize_exceptions  # whatever W&B raises becomes a wandb.Error

    try:
        answers = normalize_exceptions(_ask_wandb)(project, curves)
    except wandb.Error as fault:
        reason = (str(fault).splitlines() or [type(fault).__name__])[0].rstrip(".")
        raise UserError(
            f"W&B does not give the runs of {project} ({reason}); it needs the network and wandb login; name run "
            "directories instead"
        ) from fault
    records, others = [], []
    for place, config, summary, rows in answers:
        if "provenance" not in config or "weights_sha256" not in summary:
            others.append(place)
            continue
        provenance, exact = config["provenance"], summary.get("rank/certified_exact")
        rank = {name: summary[f"rank/{name}"] for name in ("width_images", *WIDTHS) if f"rank/{name}" in summary}
        result = {
            "experiment": config.get("experiment"),
            "seed": config.get("seed_everything"),
            "metrics": summary,
            "rank": rank | ({} if exact is None else {"certified": [exact]}),
            **{name: summary.get(name) for name in ("parameters", "weights_sha256", "seconds")},
        }
        logged = {name: [(row.get("epoch"), row[name]) for row in rows if row.get(name) is not None] for name in CURVES}
        records.append(_record(place, config, provenance, result, logged))
    return records, others


def _ask_wandb(project: str, curves: bool) -> list[tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Path, configuration, summary and history of every run; of an unfinished run only the path."""
    import wandb

    return [
        (f"{project}/{run.id}", dict(run.config), dict(run.summary), list(run.scan_history()) if curves else [])
        if run.state == "finished"
        else (f"{project}/{run.id}", {}, {}, [])
        for run in wandb.Api(timeout=WANDB_PATIENCE).runs(project)
    ]


def _record(
    place: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    result: Mapping[str, Any],
    logged: Mapping[str, Iterable[tuple[Any, Any]]],
) -> Record:
    """The record of a run, every value converted to its type.

    Raises:
        UserError: where a value is missing or has another type.
    """
    try:
        metrics = {name: float(result["metrics"][name]) for name in ACCURACIES if name in result["metrics"]}
        if wrong := next((name for name, value in metrics.items() if not math.isfinite(value)), None):
            raise ValueError(f"{wrong} is {metrics[wrong]}")
        dataset = str(result.get("dataset", provenance["dataset"]["name"]))
        started, git = provenance.get("started"), provenance.get("git")
        rank, seconds = result["rank"], result.get("seconds")
        certified = rank.get("certified")
        commit = git["commit"] + (" with changes" if git.get("dirty_diff_sha256") else "") if git else None
        return Record(
            place=place,
            experiment=str(result["experiment"]),
            config=config,
            seed=int(result["seed"]),
            dataset=dataset,
            dataset_sha256=str(provenance["dataset"]["sha256"]),
            fallback_for=config["data"]["dataset"] if config["data"]["dataset"] != dataset else None,
            metrics=metrics,
            parameters=int(result["parameters"]),
            weights_sha256=str(result["weights_sha256"]),
            certified=min(map(int, certified)) if certified else None,
            widths={name: (int(rank[name]), int(rank["width_images"])) for name in WIDTHS if name in rank},
            seconds=None if seconds is None else float(seconds),
            commit=commit,
            date=started[:16].replace("T", " ") if started else None,
            curves={name: _curve(logged.get(name, ())) for name in CURVES},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as fault:
        why = f"there is no {fault}" if isinstance(fault, KeyError) else str(fault)
        raise UserError(f"{place} does not hold what a finished run leaves: {why}") from fault


def _curve(points: Iterable[tuple[Any, Any]]) -> dict[int, float]:
    """The last finite value of each epoch, epochs counted from 1, of pairs of epoch and value."""
    values = {int(float(epoch)) + 1: float(value) for epoch, value in points}
    return {epoch: value for epoch, value in values.items() if math.isfinite(value)}
