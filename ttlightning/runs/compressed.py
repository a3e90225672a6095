"""The run of a compressed network, which ``test``, ``predict``, ``certify``, ``compare``, ``export`` and ``load`` take.

It was not trained. Its checkpoint has weights and no state of an optimizer, so that ``fit --ckpt_path`` begins a new
run with these weights; its provenance says which weights it came from.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.runs.checkpoints import (
    CONFIG_KEY,
    NETWORK_KEY,
    ORIGIN_KEY,
    read_checkpoint,
    weights_sha256,
    write_checkpoint,
)
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.provenance import provenance
from ttlightning.runs.run import Run
from ttlightning.runs.trained_formats import describe_format
from ttlightning.runs.trained_networks import DATA_KEY
from ttlightning.runs.trust import read_mapping

KEPT = ("epoch", "global_step", "pytorch-lightning_version", DATA_KEY)
"""Entries of the trained network's checkpoint that hold for the compressed one."""


class Origin(NamedTuple):
    """What a compressed network was made from, and how."""

    checkpoint: str
    weights_sha256: str
    """of the trained network"""
    rank: int
    metric: str
    to: str
    relative_error: float
    """of the weight tensor, in the metric"""


def read_trained(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and configuration of the checkpoint of a trained network.

    Raises:
        UserError: if it has no configuration, which the compressed run would need.
    """
    content = read_checkpoint(file)
    if CONFIG_KEY not in content:
        raise UserError(f"{file} has no configuration: compress a run that fit has made")
    return content, read_mapping(content[CONFIG_KEY], file)


def write_run(
    run: Run,
    file: Path,
    format: ScoreTensor,
    origin: Origin,
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    seconds: float,
) -> None:
    """Write a new run; the result comes last.

    Args:
        run: its directory, new.
        file: checkpoint of the trained network.
        format: the compressed weight tensor.
        dataset: the data, as ``PatchDataModule.describe`` says.
        metrics: accuracies such as ``val/acc``.
        seconds: of the compression.

    Raises:
        UserError: if another process has written the run meanwhile.
    """
    content, config = read_trained(file)
    features = {name: weight for name, weight in content["state_dict"].items() if not name.startswith("format.")}
    state = features | {f"format.{name}": weight.detach() for name, weight in format.state_dict().items()}
    text = yaml.safe_dump(_configuration(config, file, format, run), sort_keys=False)
    run.path.mkdir(parents=True, exist_ok=True)
    run.claim()
    try:
        if run.state != "new":
            raise UserError(f"{run} was written by another process meanwhile; name another folder with --output")
        write_whole(run.config_file, text.encode())
        record = provenance(dict(dataset), 1).content | {"compressed": origin._asdict()}
        write_json(run.provenance_file, record)
        kept = {name: content[name] for name in KEPT if name in content}
        sealed = {"state_dict": state, CONFIG_KEY: text, NETWORK_KEY: describe_format(format)}
        write_checkpoint(run.checkpoint, kept | sealed | {ORIGIN_KEY: origin.checkpoint})
        write_whole(
            run.metrics_file, f"epoch,step\n{content.get('epoch', 0)},{content.get('global_step', 0)}\n".encode()
        )
        write_json(run.result_file, _result(run, config, state, dataset, metrics, seconds))
    finally:
        run.lock.release()


def _configuration(config: Mapping[str, Any], file: Path, format: ScoreTensor, run: Run) -> dict[str, Any]:
    """That of the trained network, with the compressed format, and the trained network as where it began."""
    changed = copy.deepcopy(dict(config))
    arguments = (changed["model"]["format"].get("init_args") or {}) | {"rank": format.rank}
    changed["model"]["format"] = {"class_path": f"ttlightning.{format.name}", "init_args": arguments}
    return changed | {"experiment": run.path.parent.name, "ckpt_path": str(file)}


def _result(
    run: Run,
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    return {
        "experiment": run.path.parent.name,
        "dataset": dataset["name"],
        "seed": config["seed_everything"],
        "epochs": 0,
        "metrics": dict(metrics),
        "parameters": sum(weight.numel() for weight in state.values() if torch.is_floating_point(weight)),
        "weights_sha256": weights_sha256(state),
        "seconds": seconds,
        "rank_check_seconds": 0.0,
        "rank": {},
    }
