"""Whether two configurations are the same experiment, from one table of what each key can change.

===============================  ==============================================================================
a run goes on in its directory   ``SAME_RUN``: every key is the same, but those that change nothing
a checkpoint's state is taken up ``SAME_STEPS``: the same steps, up to rounding
a study's run is found           ``run_name``: a hash of the keys of ``SAME_RUN``, without the seed
runs are compared as one group   ``SAME_GROUP``: the same but for seed and recording; data are known by content
===============================  ==============================================================================
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from ttlightning.errors import UserError


class Changes(Enum):
    """What another value of a key can change."""

    NOTHING = auto()
    """of the run but pictures and W&B's record"""
    RECORD = auto()
    """what is recorded, and where data are read from; no step"""
    ROUNDING = auto()
    """the last bits of the weights"""
    EVALUATION = auto()
    """when the run ends or is evaluated, and on how much; no step"""
    LENGTH = auto()
    """the number of steps; every step, where the schedule is as long as the run"""
    START = auto()
    """the weights or the state that the run begins with"""
    SEED = auto()
    """every random number: another seed of the same experiment"""
    DATA = auto()
    """the data, which provenance knows by their content"""
    EXPERIMENT = auto()
    """everything; so does a key that is not in the table"""


KEYS: Final[dict[Changes, tuple[str, ...]]] = {
    Changes.NOTHING: (
        "config", "run", "weights_only", "provenance", "wandb", "figures", "rank_timeout",
        "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.limit_predict_batches",
    ),
    Changes.RECORD: (
        "experiment", "test_after_fit", "rank_check", "checkpoint", "last_checkpoint", "data.root", "trainer.logger",
        "trainer.log_every_n_steps", "trainer.enable_checkpointing", "trainer.enable_autolog_hparams",
        "trainer.num_sanity_val_steps", "trainer.default_root_dir", "trainer.profiler", "trainer.detect_anomaly",
        "trainer.barebones", "trainer.model_registry",
    ),
    Changes.ROUNDING: (
        "trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.deterministic",
        "trainer.benchmark", "trainer.inference_mode", "trainer.use_distributed_sampler", "trainer.sync_batchnorm",
        "trainer.plugins", "data.evaluation_batch_size", "data.steps_per_execution", "data.microbatches",
    ),
    Changes.EVALUATION: (
        "trainer.min_epochs", "trainer.min_steps", "trainer.max_time", "trainer.limit_val_batches",
        "trainer.limit_test_batches", "trainer.check_val_every_n_epoch", "trainer.val_check_interval",
    ),
    Changes.LENGTH: ("trainer.max_epochs", "trainer.max_steps"),
    Changes.START: ("ckpt_path",),
    Changes.SEED: ("seed_everything",),
    Changes.DATA: ("data.dataset", "data.offline_fallback"),
}  # fmt: skip

RENAMED_KEYS: Final = {
    "modes": "mode_size", "virtual_devices": "microbatches", "steps_per_call": "steps_per_execution"
}  # fmt: skip
"""Last part of a key in version 0.1: its name now."""

ADDED_KEYS: Final[dict[str, Any]] = {
    "model.features.init_args.hidden": None, "model.label_smoothing": 0.0, "data.augmentation.flip": False,
    "data.augmentation.elastic": 0.0, "data.augmentation.epochs": None, "data.longest": None,
}  # fmt: skip
"""Key that version 0.1 had not: the value that does what was done without it. A run without the key has this value."""

SAME_RUN: Final = frozenset({Changes.NOTHING, Changes.START})
SAME_STEPS: Final = SAME_RUN | {Changes.RECORD, Changes.ROUNDING, Changes.EVALUATION}
SAME_GROUP: Final = frozenset({Changes.NOTHING, Changes.RECORD, Changes.ROUNDING, Changes.SEED, Changes.DATA})

_TABLE: Final = {key: changes for changes, keys in KEYS.items() for key in keys}
_ABSENT: Final = object()


def what_changes(key: str) -> Changes:
    """What the key ``a.b.c`` can change: its entry in the table, or that of ``a.b`` or ``a``."""
    while key and key not in _TABLE:
        key = key.rpartition(".")[0]
    return _TABLE.get(key, Changes.EXPERIMENT)


def settings(config: Mapping[str, Any], apart_from: Collection[Changes] = ()) -> dict[str, Any]:
    """The flat configuration, without the keys that change what ``apart_from`` names, as this version would write it.

    Old keys get their new names, and a key that was added later has its value of before.
    """
    entries: dict[str, Any] = {}
    for key, value in flat(config).items():
        above, dot, last = key.rpartition(".")
        entries[f"{above}{dot}{RENAMED_KEYS.get(last, last)}"] = value
    parts = {key.rpartition(".")[0] for key in entries}
    added = {key: value for key, value in ADDED_KEYS.items() if key.rpartition(".")[0] in parts and key not in entries}
    entries |= added
    return {key: value for key, value in entries.items() if what_changes(key) not in apart_from}


def same_experiment(
    config: Mapping[str, Any], other: Mapping[str, Any], apart_from: Collection[Changes] = SAME_RUN
) -> bool:
    """Whether two configurations agree in all keys but those that change only what is named."""
    return settings(config, apart_from) == settings(other, apart_from)


def first_difference(
    config: Mapping[str, Any], other: Mapping[str, Any], apart_from: Collection[Changes] = SAME_RUN
) -> str | None:
    """``key: value`` of the first key that keeps ``same_experiment`` from being true, with the value in ``config``."""
    one, two = settings(config, apart_from), settings(other, apart_from)
    for key in one | two:
        if one.get(key, _ABSENT) != two.get(key, _ABSENT):
            return f"{key}: {one.get(key, 'nothing')}"
    return None


def run_name(config: Mapping[str, Any], seed: int) -> str:
    """Directory name of a study's run: the seed, and 8 hexadecimal digits that are the same for all seeds.

    A key that was added later counts where it changes something, so that a newer version finds the run.
    """
    counted = settings(config, SAME_RUN | {Changes.SEED})
    counted = {key: value for key, value in counted.items() if value != ADDED_KEYS.get(key, _ABSENT)}
    text = json.dumps(counted, sort_keys=True, default=str)
    return f"{seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_version(config: Mapping[str, Any], source: Path) -> None:
    """Raise ``UserError`` where the configuration has a key of version 0.1: such a run cannot go on."""
    for key in flat(config):
        above, _, last = key.rpartition(".")
        if last in RENAMED_KEYS:
            raise UserError(
                f"{source} is of version 0.1, which this version does not go on with: {above}.{last} is called "
                f"{RENAMED_KEYS[last]} since version 0.2; train it again"
            )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; an empty mapping is a value."""
    entries: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        entries |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return entries
