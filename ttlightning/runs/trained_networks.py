"""The trained network in a checkpoint, without Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttlightning.data.patches import Patching
from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_global_generator
from ttlightning.rank.limits import out_of_range
from ttlightning.runs.checkpoints import CONFIG_KEY, NETWORK_KEY, check_fits, read_checkpoint
from ttlightning.runs.trained_formats import SIZES
from ttlightning.runs.trust import NotTrusted, import_trusted, listed_networks, read_mapping

DATA_KEY = "PatchDataModule"
"""Entry of a checkpoint with the names of the classes and the shape of the images."""

GEOMETRY = ("patch_size", "stride", "padding", "order", "repeat")
"""Keys of ``data`` that say how an image is cut into patches."""

BASES = {"features": nn.Module, "format": ScoreTensor}
"""Part of ``model``: the class that it must be a subclass of."""


def read_network(file: Path, trust: Sequence[str] = ()) -> Network:
    """The network that a checkpoint's configuration describes, with the checkpoint's weights, in eval mode.

    Raises:
        UserError: as ``ttlightning.load``.
    """
    content = read_checkpoint(file)
    if CONFIG_KEY not in content:
        raise UserError(f"{file} has no configuration: load a checkpoint that fit has written")
    config = read_mapping(content[CONFIG_KEY], file)
    for device in ("meta", "cpu"):  # shapes first: a file may ask for more memory than its weights need
        network = _build(config, content, file, trust, device)
        check_fits(content, network, file, "its configuration or its weights were changed")
    network.load_state_dict(content["state_dict"], assign=True)
    return network.eval().requires_grad_(False)


def _build(config: dict[str, Any], content: dict[str, Any], file: Path, trust: Sequence[str], device: str) -> Network:
    """The network of a configuration, with initial weights."""
    sizes, data = content.get(NETWORK_KEY), content.get(DATA_KEY)
    if not isinstance(sizes, dict) or not all(type(sizes.get(name)) is int for name in SIZES):
        raise UserError(f"{file} does not say what network it holds; train it again with this version")
    if not isinstance(data, dict) or "shape" not in data:
        raise UserError(f"{file} does not say what images it is for; train it again with this version")
    if reason := out_of_range(**{name: sizes[name] for name in SIZES}):
        raise UserError(f"{file}: {reason}")
    try:
        model, geometry = config["model"], {name: config["data"][name] for name in GEOMETRY}
        pairs = {name: tuple(value) for name, value in geometry.items() if isinstance(value, list)}
        patching, (channels, height, width) = Patching(**geometry | pairs), data["shape"]
        rows, columns = patching.grid(height, width)
        if patching.repeat * rows * columns != sizes["sites"]:
            raise ValueError(f"{patching.repeat * rows * columns} patches, {sizes['sites']} sites")
        sites, patch_dim = patching.shape(channels, height, width)
        feature_map, format = (_trained_class(model[part]["class_path"], part, file, trust) for part in BASES)
        with torch.device(device), keyed_global_generator(0, "load"):  # the caller's random numbers stay as they are
            features = feature_map(patch_dim, **model["features"].get("init_args") or {})
            tensor = format(sites, features.mode_size, sizes["classes"], **model["format"].get("init_args") or {})
        return Network(
            features, tensor, float(model["pixel_mean"]), patching, (channels, height, width), data["classes"]
        )
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as fault:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:120]
        raise UserError(f"{file} is damaged: its configuration makes no network ({reason})") from fault


def _trained_class(name: Any, part: str, file: Path, trust: Sequence[str]) -> type:
    """The feature map or format that a configuration names; ``UserError`` where it may not be imported."""
    try:
        kind = import_trusted(str(name), (*listed_networks(), *trust), f"the configuration in {file}")
    except NotTrusted as refused:
        raise UserError(
            f"the configuration in {file} names {refused.name}, which would be run: if you know what it is, load it "
            f"with trust=[{refused.name!r}]"
        ) from refused
    if not (isinstance(kind, type) and issubclass(kind, BASES[part])):
        raise UserError(f"{file} names {name} as model.{part}, which is no {BASES[part].__name__}")
    return kind
