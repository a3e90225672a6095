"""The weight tensor in a checkpoint, as a format that holds the trained weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from ttlightning import formats
from ttlightning.errors import UserError
from ttlightning.formats import ScoreFunction, ScoreTensor
from ttlightning.networks import baselines
from ttlightning.rank.limits import LARGEST, out_of_range
from ttlightning.runs.checkpoints import CONFIG_KEY, MODEL_ARGUMENTS, NETWORK_KEY, read_checkpoint, weights_sha256
from ttlightning.runs.trust import import_trusted, read_mapping

OWN: Final[dict[str, type[ScoreFunction]]] = {
    **{name: getattr(formats, name) for name in formats.NAMES},
    **{name: getattr(baselines, name) for name in baselines.__all__},
}
"""The functions of this package by the names that checkpoints have."""


class TrainedFormat(NamedTuple):
    """The weight tensor of a trained network, the subject of a rank certificate."""

    format: ScoreTensor
    """with the weights of the checkpoint"""
    sha256: str
    """of all weights of the network, by ``weights_sha256``"""


def describe_format(format: ScoreFunction) -> dict[str, Any]:
    """The entry of a checkpoint from which ``build_format`` makes the format again: class and sizes."""
    kind = type(format)
    name = kind.__name__ if OWN.get(kind.__name__) is kind else f"{kind.__module__}.{kind.__qualname__}"
    return {"format": name, **{size: getattr(format, size) for size in format.sizes}}


def read_format(file: Path, trusted: Sequence[str] | None = None) -> TrainedFormat:
    """The weight tensor in a checkpoint.

    Args:
        file: the checkpoint.
        trusted: classes and modules from outside this package that may be imported, as in ``--trust``; None: the
            caller has no use for formats from outside.

    Raises:
        UserError: if the checkpoint is damaged, its weights do not fit the format that it names, that format may not
            be imported, or it has no weight tensor.
    """
    content = read_checkpoint(file)
    with torch.device("meta"):
        format = build_format(content, file, trusted).requires_grad_(False)
    state, stated = content["state_dict"], content[NETWORK_KEY]
    weights = {key.removeprefix("format."): value for key, value in state.items() if key.startswith("format.")}
    shapes = {key: value.shape for key, value in format.state_dict().items()}
    fits = {key: value.shape for key, value in weights.items()} == shapes
    if not fits or any(getattr(format, size) != stated[size] for size in format.sizes):
        raise UserError(f"{file} is damaged: its weights are not those of the {format} that it names")
    format.load_state_dict(weights, assign=True)
    return TrainedFormat(weight_tensor_of(format, file), weights_sha256(state))


def weight_tensor_of(format: ScoreFunction, file: Path) -> ScoreTensor:
    """The weight tensor of the function in a checkpoint; ``UserError`` without one."""
    if (tensor := format.weight_tensor()) is None:
        raise UserError(
            f"{file} holds a {format.name}, which has no weight tensor: there is nothing to certify or compress"
        )
    return tensor


def build_format(content: dict[str, Any], file: Path, trusted: Sequence[str] | None) -> ScoreFunction:
    """The format that a checkpoint describes, with initial weights; see ``read_format``."""
    network = content.get(NETWORK_KEY)
    if isinstance(network, dict) and "modes" in network:
        raise UserError(f"{file} was written by version 0.1, which this version does not read; train it again")
    if not isinstance(network, dict) or not _are_sizes(network, ScoreFunction.sizes):
        raise UserError(f"{file} does not say what network it holds; train it again with this version")
    name = network.get("format")
    kind = OWN.get(name) if isinstance(name, str) else None
    known = (kind or ScoreTensor).sizes
    if not _are_sizes(network, known):
        raise UserError(f"{file} does not say what network it holds; train it again with this version")
    sizes = {size: network[size] for size in known}
    if reason := out_of_range(**{size: value for size, value in sizes.items() if size in LARGEST}):
        raise UserError(f"{file}: {reason}")
    arguments: dict[str, Any] = {}
    if kind is None:
        arguments = {"rank": sizes.pop("rank")}
        kind = _from_outside(name, file, trusted)
        model = {"model": content.get(MODEL_ARGUMENTS)}
        match read_mapping(content[CONFIG_KEY], file) if CONFIG_KEY in content else model:
            case {"model": {"format": {"class_path": chosen, **others}}} if chosen == name:
                arguments = others.get("init_args") or {}
    try:
        return kind(**sizes, **arguments)
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as fault:  # no network has these sizes
        raise UserError(f"{file} is damaged: {' '.join(str(fault).split())[:120]}") from fault


def _are_sizes(network: dict[str, Any], names: Sequence[str]) -> bool:
    return all(type(network.get(name)) is int for name in names)


def _from_outside(name: Any, file: Path, trusted: Sequence[str] | None) -> type[ScoreFunction]:
    """The class of this name that is none of this package's; see ``read_format``."""
    if not isinstance(name, str) or "." not in name:
        raise UserError(f"{file} holds a {name}, which is none of the formats of this version")
    if trusted is None:
        raise UserError(f"{file} holds a {name}, a format from outside this package, whose scores are not counted here")
    kind = import_trusted(name, trusted, f"the checkpoint {file}")
    if not (isinstance(kind, type) and issubclass(kind, ScoreFunction)):
        raise UserError(f"{file} names {name} as its format, which is no ScoreTensor")
    return kind
