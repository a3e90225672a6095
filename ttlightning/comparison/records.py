"""A finished run as a comparison sees it: its settings and its results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ttlightning.runs import identity
from ttlightning.runs.identity import SAME_GROUP

ACCURACIES: Final = ("train/acc", "val/acc", "test/acc")
CURVES: Final = ("val/acc", "train/loss", "rank/width_10_percent", "rank/certified")
"""Logged values that are kept for every epoch."""
WIDTHS: Final = ("width_10_percent", "width_1_percent")
"""Entries of a rank check: units that a shallow network needs to stay within 10 % and 1 % of the scores."""


@dataclass(frozen=True)
class Record:
    """A finished run, read from its directory or from W&B."""

    place: str
    """its directory, or its path at W&B"""
    experiment: str
    config: Mapping[str, Any]
    seed: int
    dataset: str
    """name of the data that it was trained on"""
    dataset_sha256: str
    fallback_for: str | None
    """name of the data that the configuration asked for, where its fallback was used"""
    metrics: Mapping[str, float]
    parameters: int
    weights_sha256: str
    certified: int | None
    """certified lower bound on the CP-rank, the smallest over the classes"""
    widths: Mapping[str, tuple[int, int]]
    """name in ``WIDTHS``: units, and the number of images whose mixtures they were seen on"""
    seconds: float | None
    commit: str | None
    date: str | None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """name in ``CURVES``: value after each epoch, counted from 1; 0 is before training"""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's experiment: short key to hashable value, without keys that tell no groups apart.

    ``model.format.init_args.rank`` becomes ``format.rank``, ``model.format.class_path`` becomes ``format``. The path of
    a checkpoint that the run began with becomes ``given``.
    """
    short = {_short(key): _hashable(v) for key, v in identity.settings(config, SAME_GROUP).items() if v != {}}
    return short | ({"ckpt_path": "given"} if short.get("ckpt_path") is not None else {})


def _short(key: str) -> str:
    return ".".join(part for part in key.removeprefix("model.").split(".") if part not in ("init_args", "class_path"))


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(part) for part in value)
    return tuple((k, _hashable(v)) for k, v in sorted(value.items())) if isinstance(value, Mapping) else value


def value_text(value: Any) -> str:
    """A setting as a table shows it: a class without its module, numbers alike wherever they were stored."""
    if isinstance(value, tuple):
        return f"[{', '.join(value_text(part) for part in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        package, _, name = value.rpartition(".")
        return name if package and value.replace(".", "").replace("_", "").isalnum() and name[0].isupper() else value
    return "none" if value is None else str(value)
