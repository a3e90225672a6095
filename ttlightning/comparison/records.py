"""A finished run as a comparison sees it: its settings, and what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ACCURACIES: Final = ("train/acc", "val/acc", "test/acc")
CURVES: Final = ("val/acc", "train/loss")
"""Logged values of which every epoch is kept."""

_TRAINER: Final = (
    "accelerator", "strategy", "devices", "num_nodes", "logger", "log_every_n_steps", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams", "num_sanity_val_steps", "default_root_dir",
    "deterministic", "benchmark", "inference_mode", "use_distributed_sampler", "sync_batchnorm", "profiler",
    "detect_anomaly", "barebones", "plugins", "model_registry",
)  # fmt: skip
NOT_THE_EXPERIMENT: Final = (
    "seed_everything", "experiment", "test_after_fit", "weights_only", "provenance", "wandb", "rank_check", "figures",
    "checkpoint", "last_checkpoint", "data.root", "data.dataset", "data.offline_fallback", "data.evaluation_batch_size",
    "data.steps_per_execution", "data.microbatches", *(f"trainer.{name}" for name in _TRAINER),
)  # fmt: skip
"""Keys of a configuration that change no result, or only its rounding; the data are known by their content instead."""


@dataclass(frozen=True)
class Record:
    """A finished run, wherever it was read."""

    place: str
    """its directory, or its path at W&B"""
    experiment: str
    config: Mapping[str, Any]
    seed: int
    dataset: str
    """name of the data that it was trained on"""
    dataset_sha256: str
    fallback_for: str | None
    """name of the data that the configuration asked for, where it had to do with others"""
    metrics: Mapping[str, float]
    parameters: int
    weights_sha256: str
    certified: int | None
    """certified lower bound on the CP-rank, the smallest over the classes"""
    seconds: float | None
    commit: str | None
    date: str | None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """name in ``CURVES``: value after each epoch, counted from 1"""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration as short key: hashable value, without what is not part of the experiment.

    ``model.format.init_args.rank`` becomes ``format.rank``, ``model.format.class_path`` becomes ``format``. Of a
    checkpoint that the run began at only that there was one is kept: its path says nothing.
    """
    found = _short(config)
    if found.get("ckpt_path") is not None:
        found["ckpt_path"] = "given"
    ignored = tuple(f"{key}." for key in NOT_THE_EXPERIMENT)
    return {key: value for key, value in found.items() if not f"{key}.".startswith(ignored)}


def _short(part: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in part.items():
        place = prefix if key in ("init_args", "class_path") or (key == "model" and not prefix) else f"{prefix}{key}."
        found |= _short(value, place) if isinstance(value, Mapping) else {place.removesuffix("."): _hashable(value)}
    return found


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
