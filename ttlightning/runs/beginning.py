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
from ttlightning.runs.checkpoints import CONFIG_KEY, RUN_KEY, STEPS_KEY, read_checkpoint
from ttlightning.runs.identity import SAME_STEPS, Changes, check_version, first_difference, same_experiment
from ttlightning.runs.run import Run, runs_of
from ttlightning.runs.trust import read_mapping
from ttlightning.system.paths import expanded

NEWEST: Final = "last"
"""Value of ``--ckpt_path`` for the newest run of this configuration."""


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
    if into is not None and into.state != "new":
        own = owner is not None and owner.path.resolve() == into.path.resolve()
        return _go_on(into, config, into.config["ckpt_path"] if own else source)
    if source is None:
        return Beginning(into)
    is_same = owner is not None and (source != owner.checkpoint or first_difference(owner.config, config) is None)
    if into is None and is_same:
        return _go_on(owner, config, owner.config["ckpt_path"])
    return _begin_with(source, owner, config)._replace(run=into)


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
        content = read_checkpoint(run.checkpoint)
        _check_config(run, content)
        return Beginning(run, True, state=run.checkpoint, data_sha256=_data_sha256(content))
    # Stopped before its first checkpoint: it begins again where it began.
    began = _begin_with(expanded(kept), Run.of_checkpoint(expanded(kept)), config) if kept else Beginning()
    return began._replace(run=run, goes_on=True)


def _begin_with(file: Path, owner: Run | None, config: Mapping[str, Any]) -> Beginning:
    """A new run from the checkpoint ``file``: with its whole state where the steps so far are the same."""
    content = read_checkpoint(file)
    if owner is not None:
        _check_config(owner, content)
    trained = read_mapping(content[CONFIG_KEY], file) if CONFIG_KEY in content else None
    if trained is not None:
        check_version(trained, file)
    if trained is None or not makes_same_steps(trained, config):
        return Beginning(weights=file)
    done, asked = epochs_done(content), config["trainer"]["max_epochs"]
    if asked is not None and 0 <= asked <= done:
        raise UserError(
            f"{file} has {done} epochs behind it and trainer.max_epochs is {asked}: nothing is left to train; "
            "ask for more epochs"
        )
    return Beginning(state=file, data_sha256=_data_sha256(content))


def _check_config(run: Run, content: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where config.yaml is not what the run's checkpoint was trained with."""
    trained = read_mapping(content[CONFIG_KEY], run.checkpoint) if CONFIG_KEY in content else run.config
    if (edited := first_difference(run.config, trained, {Changes.START})) is not None:
        raise UserError(
            f"{run.config_file} says {edited}, which is not what the run's checkpoint was trained with: restore it, "
            "and give what is to change as an option"
        )


def _data_sha256(content: Mapping[str, Any]) -> str | None:
    sha256: str | None = content.get(RUN_KEY, {}).get("data_sha256")
    return sha256


def makes_same_steps(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations make the same steps, as long as both make steps: up to rounding, on any devices."""
    return same_experiment(config, other, SAME_STEPS if depends_on_length(config) else SAME_STEPS | {Changes.LENGTH})


def depends_on_length(config: Mapping[str, Any]) -> bool:
    """Whether the schedule is as long as the run: ``total_steps: null``."""
    scheduler = config["model"].get("scheduler") or {}
    return (scheduler.get("init_args") or {}).get("total_steps", 0) is None


def epochs_done(content: Mapping[str, Any]) -> int:
    """Number of completed epochs in a checkpoint."""
    try:
        return int(content["epoch"]) + int(_is_at_an_end(content))
    except (KeyError, TypeError) as fault:
        raise UserError(
            f"the checkpoint does not fit what is to go on from it, or was changed: it does not say how many epochs it "
            f"has behind it ({type(fault).__name__}: {fault})"
        ) from fault


def _is_at_an_end(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written at the end of an epoch; ``UserError`` where it does not say."""
    try:
        return bool(content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"])
    except (KeyError, TypeError) as fault:
        raise UserError(
            "the checkpoint does not fit what is to go on from it, or was changed: it does not say where in its epoch "
            f"it was made ({type(fault).__name__}: {fault})"
        ) from fault


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
    ready = content["loops"]["fit_loop"]["epoch_loop.batch_progress"].get("current", {}).get("ready", 0)
    if ready % accumulated:
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
