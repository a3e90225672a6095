"""How a fit begins that is given a checkpoint: decided once, from two configurations.

1. The same configuration, and the run was stopped: that run goes on, in its directory, to the same bits.
2. Configurations that train alike so far (other devices, another place of the data, more epochs where no schedule
   depends on their number): a new run goes on from the whole state, at the checkpoint's place.
3. Any other: a new run begins with the checkpoint's weights, and with nothing else. Optimizer, schedule, epochs and
   random numbers are those of its own configuration, so that every value which is recorded is one that was used.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ttlightning.comparison.records import NOT_THE_EXPERIMENT
from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import CONFIG_KEY, RUN_KEY, STEPS_KEY, read_checkpoint
from ttlightning.runs.trust import config_text, read_mapping
from ttlightning.system.paths import expanded

NEWEST: Final = "last"
"""What ``--ckpt_path`` may say instead of a path: the newest run of this configuration."""

_DECIDE: Final = ("seed_everything", "data.dataset", "data.offline_fallback")
"""Of what a comparison of finished runs leaves out, what another network comes from."""

_LENGTH: Final = ("trainer.max_epochs", "trainer.max_steps")
_LOOKS: Final = (
    "ckpt_path", "config", "trainer.min_epochs", "trainer.min_steps", "trainer.max_time", "trainer.limit_val_batches",
    "trainer.limit_test_batches", "trainer.limit_predict_batches", "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval",
)  # fmt: skip
"""Further keys that change no weight: when a run ends, and what is looked at on the way."""


class Beginning(NamedTuple):
    """Where a fit begins."""

    run: Path | None = None
    """directory of the run that goes on; None for a new run"""
    state: Path | None = None
    """checkpoint whose whole state is taken up"""
    weights: Path | None = None
    """checkpoint whose weights are taken, and nothing else"""
    data_sha256: str | None = None
    """of the data that the state was trained on, where it goes on and the checkpoint says so"""


def how_to_begin(place: Path, config: Mapping[str, Any]) -> Beginning:
    """Decide for a checkpoint file or a run directory ``place`` and the complete configuration of the fit.

    Raises:
        UserError: where the run is finished, its config.yaml was edited, or nothing is left to train.
    """
    run = place if place.is_dir() else place.parent.parent
    of_a_run = place.is_dir() or (place.parent.name, place.name) == ("checkpoints", "last.ckpt")
    kept = _read_config(run / "config.yaml") if of_a_run and (run / "config.yaml").is_file() else None
    if place.is_dir():  # stopped before its first checkpoint: it begins again where it began
        if kept is None or first_difference(kept, config) is not None:
            raise UserError(f"{place} has no checkpoint, and another configuration: leave --config and options out")
        began = kept["ckpt_path"] and how_to_begin(expanded(kept["ckpt_path"]), config)
        return began._replace(run=run) if began else Beginning(run)
    content = read_checkpoint(place)
    trained = read_mapping(content[CONFIG_KEY], place) if CONFIG_KEY in content else None
    if kept is not None and trained is not None and (edited := first_difference(kept, trained)) is not None:
        raise UserError(
            f"{run / 'config.yaml'} says {edited}, which is not what the run's checkpoint was trained with: restore "
            "it, and give what is to change as an option"
        )
    data = content.get(RUN_KEY, {}).get("data_sha256")
    if kept is not None and first_difference(kept, config) is None:
        if (run / "result.json").exists():
            raise UserError(
                f"{run} is finished, there is nothing to go on with; --ckpt_path {run} --trainer.max_epochs N, with "
                "another N, trains on from there in a new run"
            )
        return Beginning(run, state=place, data_sha256=data)
    if trained is None or not trains_alike(trained, config):
        return Beginning(weights=place)
    done, asked = epochs_done(content), config["trainer"]["max_epochs"]
    if asked is not None and 0 <= asked <= done:
        raise UserError(
            f"{place} has {done} epochs behind it and trainer.max_epochs is {asked}: nothing is left to train; "
            "ask for more epochs"
        )
    return Beginning(state=place, data_sha256=data)


def first_difference(config: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """``key: value`` of the first entry that the other configuration has not; the ``ckpt_path`` is not compared."""
    one, two = (dict(_entries(c)) for c in (config, other))
    for key in [*one, *(key for key in two if key not in one)]:
        if key != "ckpt_path" and one.get(key, _ABSENT) != two.get(key, _ABSENT):
            return f"{key}: {one.get(key, 'nothing')}"
    return None


_ABSENT: Final = object()


def trains_alike(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations make the same steps, as long as both make steps: up to rounding, on any devices."""
    alike = (*(key for key in NOT_THE_EXPERIMENT if key not in _DECIDE), *_LOOKS)
    if not depends_on_length(config):
        alike += _LENGTH
    ignored = tuple(f"{key}." for key in alike)
    one, two = (
        {key: value for key, value in _entries(c) if not f"{key}.".startswith(ignored)} for c in (config, other)
    )
    return one == two


def depends_on_length(config: Mapping[str, Any]) -> bool:
    """Whether the schedule is as long as the run: ``total_steps: null``."""
    scheduler = config["model"].get("scheduler") or {}
    return (scheduler.get("init_args") or {}).get("total_steps", 0) is None


def epochs_done(content: Mapping[str, Any]) -> int:
    """Whole epochs behind a checkpoint of Lightning's."""
    try:
        return int(content["epoch"]) + int(_is_at_an_end(content))
    except (KeyError, TypeError) as fault:
        raise UserError(
            f"the checkpoint does not fit what is to go on from it, or was changed: it does not say how many epochs it "
            f"has behind it ({type(fault).__name__}: {fault})"
        ) from fault


def _is_at_an_end(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was made at the end of an epoch; ``UserError`` where it does not say."""
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
    """Raise ``UserError`` where a checkpoint within an epoch has not all that the rest of the epoch needs.

    ``last.ckpt`` is made where it has; Lightning's own ``ModelCheckpoint`` is made wherever it is asked to be.

    Args:
        steps_per_execution: optimizer steps in a call, which is what the checkpoint's place counts.
        accumulated: batches whose gradients make a step; a checkpoint holds none of them.
        begins_epochs: name of what acts when an epoch starts, which this one has already done.
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


def newest_run(root: Path, experiment: str, config: Mapping[str, Any], verb: str) -> Path:
    """The run of the experiment with the highest number that has this very configuration: ``--ckpt_path last``.

    For ``test`` and its like the same seed, data and network are enough.

    Raises:
        UserError: where there is none; the message says what the newest run has otherwise.
    """
    runs = [path.parent for path in (root / experiment).glob("*/config.yaml") if path.parent.name.isdigit()]
    runs.sort(key=lambda run: int(run.name), reverse=True)
    if not runs:
        raise UserError(f"there is no run in {root / experiment} to go on with; name one such as runs/eq/0")
    parts = list(config) if verb == "fit" else ["seed_everything", "data", "model"]
    asked = {part: config[part] for part in parts if part != "config"}
    differences = []
    for run in runs:
        kept = _read_config(run / "config.yaml")
        differences.append(first_difference({part: kept.get(part) for part in asked}, asked))
        if differences[-1] is None:
            return run
    raise UserError(
        f"no run in {root / experiment} has this configuration: {runs[0]} has {differences[0]}; name a run with "
        "--ckpt_path, or leave it out for a new one"
    )


def _read_config(file: Path) -> dict[str, Any]:
    return read_mapping(config_text(file), file)


def _entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` as ``("a.b", 1)``."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
