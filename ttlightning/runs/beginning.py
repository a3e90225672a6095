"""How a fit begins: decided once, from its configuration, a checkpoint and a run directory, before anything is written.

1. The same configuration as a run that was stopped: that run goes on, in its directory, to the same bits.
2. A configuration that makes the same steps so far (other devices, another folder of the data, more epochs where no
   schedule depends on their number): a new run takes up the checkpoint's whole state.
3. Any other configuration: a new run takes the checkpoint's weights and nothing else. Optimizer, schedule, epochs and
   random numbers are those of its own configuration.

``runs/identity.py`` says when two configurations are the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import CONFIG_KEY, ORIGIN_KEY, RUN_KEY, STEPS_KEY, read_checkpoint
from ttlightning.runs.identity import SAME_STEPS, Changes, check_version, first_difference, same_experiment
from ttlightning.runs.run import Run, runs_of
from ttlightning.runs.trust import read_mapping
from ttlightning.system.paths import expanded

NEWEST: Final = "last"
"""Value of ``--ckpt_path`` for the newest run of this configuration."""

PROGRESS: Final = ("loops", "fit_loop", "epoch_loop.batch_progress")
"""Keys of a checkpoint that lead to Lightning's count of batches within the epoch."""


class Beginning(NamedTuple):
    """Where a fit begins."""

    run: Run | None = None
    """the run that goes on, or the new run that a path was given for; None for the next number of the experiment"""
    goes_on: bool = False
    """whether ``run`` was begun before"""
    state: Path | None = None
    """checkpoint whose whole state is taken up"""
    weights: Path | None = None
    """checkpoint whose weights are taken, and nothing else"""
    data_sha256: str | None = None
    """hash of the data that ``state`` was trained on, where the checkpoint says so"""


def how_to_begin(config: Mapping[str, Any], source: Path | None = None, into: Run | None = None) -> Beginning:
    """Decide from the complete configuration of the fit.

    Args:
        source: checkpoint file or run directory that ``--ckpt_path`` names.
        into: run that ``--run`` names.

    Raises:
        UserError: where the run is finished or was begun with another configuration, its config.yaml was edited, or
            nothing is left to train.
    """
    owner = source and Run.of_checkpoint(source)
    if (
        into is None
        and owner
        and not owner.is_compressed
        and (source.is_dir() or first_difference(owner.config, config) is None)
    ):
        into = owner
    if into is not None and into.state != "new":
        own = owner is not None and owner.path.resolve() == into.path.resolve()
        return _go_on(into, config, into.config["ckpt_path"] if own else source)
    return (_begin_with(source, config) if source else Beginning())._replace(run=into)


def _go_on(run: Run, config: Mapping[str, Any], source: Path | str | None) -> Beginning:
    """Go on with ``run``; ``source`` is where it must have begun."""
    check_version(run.config, run.config_file)
    if run.state == "finished":
        raise UserError(
            f"{run} is finished, there is nothing to go on with; --ckpt_path {run} --trainer.max_epochs N, with "
            "another N, trains on from there in a new run"
        )
    kept = run.config["ckpt_path"]
    difference = first_difference(run.config, config)
    if difference is None and (kept and expanded(kept).absolute()) != (source and expanded(source).absolute()):
        difference = f"ckpt_path: {kept}"
    if difference is not None:
        raise UserError(
            f"{run} was begun with another configuration, it has {difference}: leave --config and options out to go on "
            "with it, or begin a new run elsewhere"
        )
    if run.checkpoint.is_file():
        began = _with_state(run.checkpoint, _read(run.checkpoint)[0])
    else:  # stopped before its first checkpoint: it begins again where it began
        began = _begin_with(expanded(kept), config) if kept else Beginning()
    return began._replace(run=run, goes_on=True)


def _begin_with(file: Path, config: Mapping[str, Any]) -> Beginning:
    """A new run from the checkpoint ``file``: with its whole state where the steps so far are the same."""
    content, trained = _read(file)
    if trained is not None:
        check_version(trained, file)
    if trained is None or ORIGIN_KEY in content or not makes_same_steps(trained, config):
        return Beginning(weights=file)
    done, asked = int(_entry(content, "epoch")) + _is_at_an_end(content), config["trainer"]["max_epochs"]
    if asked is not None and 0 <= asked <= done:
        raise UserError(
            f"{file} has {done} epochs behind it and trainer.max_epochs is {asked}: nothing is left to train; "
            "ask for more epochs"
        )
    return _with_state(file, content)


def _with_state(file: Path, content: Mapping[str, Any]) -> Beginning:
    return Beginning(state=file, data_sha256=content.get(RUN_KEY, {}).get("data_sha256"))


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A checkpoint's content and its configuration; ``UserError`` where config.yaml of its run is another one."""
    content, run = read_checkpoint(file), Run.of_checkpoint(file)
    trained = read_mapping(content[CONFIG_KEY], file) if CONFIG_KEY in content else None
    if run and trained and (edited := first_difference(run.config, trained, {Changes.START})) is not None:
        raise UserError(
            f"{run.config_file} says {edited}, which is not what the run's checkpoint was trained with: restore it, "
            "and give what is to change as an option"
        )
    return content, trained


def makes_same_steps(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations make the same steps, as long as both make steps: up to rounding, on any devices.

    With ``total_steps: null`` the schedule is as long as the run, so that every step depends on the length.
    """
    scheduler = config["model"].get("scheduler") or {}
    depends_on_length = (scheduler.get("init_args") or {}).get("total_steps", 0) is None
    return same_experiment(config, other, SAME_STEPS if depends_on_length else SAME_STEPS | {Changes.LENGTH})


def _is_at_an_end(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written at the end of an epoch."""
    return bool(_entry(content, *PROGRESS, "is_last_batch"))


def _entry(content: Any, *keys: str) -> Any:
    """The entry of a checkpoint at ``keys``, which lead from level to level; ``UserError`` where there is none."""
    try:
        for key in keys:
            content = content[key]
    except (KeyError, TypeError) as fault:
        raise UserError(
            "the checkpoint does not fit what is to go on from it, or was changed: it does not say where in the run it "
            f"was made ({type(fault).__name__}: {fault})"
        ) from fault
    return content


def check_place(
    content: Mapping[str, Any], file: Path, steps_per_execution: int, accumulated: int, begins_epochs: str | None
) -> None:
    """Raise ``UserError`` where training cannot go on from a checkpoint within an epoch.

    The run's last checkpoint is written only where training can go on; a ``ModelCheckpoint`` of Lightning's anywhere.

    Args:
        steps_per_execution: optimizer steps per call; the checkpoint counts its position in the epoch in calls.
        accumulated: batches whose gradients make one step; a checkpoint holds none of these gradients.
        begins_epochs: name of a callback or module that acts at the start of epochs, which has passed already.
    """
    if _is_at_an_end(content):
        return
    then, way_out = content.get(STEPS_KEY, steps_per_execution), "go on from the end of an epoch"
    if then != steps_per_execution:
        raise UserError(
            f"{file} lies within an epoch and was made with {then} steps in a call, here there are "
            f"{steps_per_execution}: set --data.steps_per_execution {then}, or {way_out}"
        )
    if begins_epochs is not None:
        raise UserError(f"{file} lies within an epoch, and {begins_epochs} acts when one starts: {way_out}")
    if _entry(content, *PROGRESS).get("current", {}).get("ready", 0) % accumulated:
        raise UserError(f"{file} lies between batches whose gradients are accumulated, and has none of them: {way_out}")


def newest_run(root: Path, experiment: str, config: Mapping[str, Any], verb: str) -> Run:
    """The newest run of the experiment that has this very configuration, studies' runs included.

    For ``test`` and the other verbs that train nothing, the same seed, data and network are enough.

    Raises:
        UserError: where there is none; the message says how the newest run differs.
    """
    parts = list(config) if verb == "fit" else ["seed_everything", "data", "model"]
    asked = {part: config[part] for part in parts}
    runs, newest = runs_of(root, experiment), None
    for run in runs:
        difference = first_difference({part: run.config.get(part) for part in asked}, asked)
        if difference is None:
            return run
        newest = newest or difference
    raise UserError(
        f"no run in {root / experiment} has this configuration: {runs[0]} has {newest}; name a run with "
        "--ckpt_path, or leave it out for a new one"
    )


def steps_of(run: str | Path) -> int:
    """Optimizer steps in the last checkpoint of a run directory; -1 where it has none."""
    file = Run(expanded(run)).checkpoint
    return int(read_checkpoint(file)["global_step"]) if file.is_file() else -1
