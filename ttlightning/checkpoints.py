"""Checkpoints: written whole or not at all, read without unpickling anything but tensors, held against the network."""

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, NamedTuple

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from ttlightning import formats
from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.paths import expanded
from ttlightning.rank.limits import out_of_range
from ttlightning.runs import weights_sha256, write_whole

CONFIG_KEY: Final = "ttlightning_config"
"""Where a checkpoint keeps the complete configuration of its run, as YAML."""

NETWORK_KEY: Final = "ttlightning_network"
"""Where it keeps the name of the format and its sizes."""


RUN_KEY: Final = "ttlightning_run"
"""Where it keeps how far the run directory's tables had come."""

SUMS_KEY: Final = "ttlightning_epoch_sums"
"""Where a checkpoint from the middle of an epoch keeps the sums of the training metrics, a row for each process."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's, but a process that dies while it writes leaves the older file, and nothing is unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return super().load_checkpoint(path, map_location, weights_only=True)


class TrainedNetwork(NamedTuple):
    """What a rank certificate speaks of: the weight tensor of a trained network."""

    weights: dict[str, Tensor]
    """The parameters of its format, by their names: ``first``, ``interior``, ``last`` of a tensor train."""
    sites: int
    sha256: str
    """of all weights of the network, by ``runs.weights_sha256``"""


def checkpoint_file(path: Path) -> Path:
    """``path`` itself, or the last checkpoint of the run directory ``path``; ``UserError`` where there is none."""
    path = expanded(path)
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no checkpoint at {file}; name a .ckpt file or a run directory such as runs/eq/0")
    return file


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The checkpoint's contents: tensors and plain values only.

    Raises:
        UserError: a damaged file, one that holds pickled objects, or one that is no Lightning checkpoint.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as fault:
        raise UserError(
            f"{file} is damaged or holds pickled objects; only tensors and plain values are read from a checkpoint, "
            "so that a file from elsewhere cannot run code"
        ) from fault
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as fault:
        reason = " ".join(str(fault).split())[:120]
        raise UserError(f"{file} is not a whole checkpoint ({reason}); use an earlier one of its folder") from fault
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{file} is not a checkpoint of a training run: it has no state_dict")
    return content


def read_network(file: Path) -> TrainedNetwork:
    """The weight tensor in a checkpoint, in whatever format it is.

    Raises:
        UserError: where the checkpoint is damaged, or its weights are not those of the format that it names.
    """
    content = read_checkpoint(file)
    network = content.get(NETWORK_KEY)
    sizes = ("sites", "modes", "classes", "rank")
    if not isinstance(network, dict) or not all(type(network.get(name)) is int for name in sizes):
        raise UserError(f"{file} does not say what network it holds; train it again with this version")
    name, state = network.get("format"), content["state_dict"]
    if name not in formats.__all__ or name == "ScoreTensor":
        raise UserError(f"{file} holds a {name}, which is none of the formats of this version")
    if reason := out_of_range(**{size: network[size] for size in sizes}):
        raise UserError(f"{file}: {reason}")
    for key, value in state.items():
        if not isinstance(value, Tensor) or not _is_whole(value):
            raise UserError(f"{file} is damaged: {key!r} is not a whole tensor")
    try:
        with torch.device("meta"):
            format: ScoreTensor = getattr(formats, name)(**{size: network[size] for size in sizes})
    except RuntimeError as fault:
        raise UserError(f"{file} is damaged: it names a {name} of more numbers than there can be") from fault
    weights = {key.removeprefix("format."): value for key, value in state.items() if key.startswith("format.")}
    shapes = {key: value.shape for key, value in weights.items()}
    if shapes != {key: value.shape for key, value in format.named_parameters()}:
        raise UserError(f"{file} is damaged: its weights are not those of the {format} that it names")
    return TrainedNetwork(weights, format.sites, weights_sha256(state))


def _is_whole(value: Tensor) -> bool:
    """Whether its numbers are all there: a view that repeats them claims more than the file has."""
    strided = value.layout == torch.strided and value.device.type == "cpu"
    return strided and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def read_chain(file: Path) -> TrainedNetwork:
    """The tensor train in a checkpoint: ``first``, ``interior`` and ``last``.

    Raises:
        UserError: as ``read_network``, and where the network has another format.
    """
    network = read_network(file)
    if "first" not in network.weights:
        raise UserError(f"{file} holds no tensor train, which the staircase is for: use --sampled K, K = 16 or more")
    return network


def check_fits(content: dict[str, Any], model: nn.Module, file: Path) -> None:
    """Raise ``UserError`` where the checkpoint belongs to a network of other shapes, naming the first difference."""
    ours, theirs = model.state_dict(), content["state_dict"]
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = (tuple(state[name].shape) if name in state else "absent" for state in (ours, theirs))
        if here != there:
            raise UserError(
                f"{file} is a checkpoint of another network: {name} is {there} there and {here} here; "
                "leave --config out to use the configuration inside the checkpoint"
            )
