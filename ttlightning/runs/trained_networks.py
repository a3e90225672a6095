"""The trained network in a checkpoint, without Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ttlightning.data.patches import Patching
from ttlightning.errors import UserError
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_global_generator
from ttlightning.runs.checkpoints import CONFIG_KEY, check_fits, read_checkpoint
from ttlightning.runs.trained_formats import build_format
from ttlightning.runs.trust import NotTrusted, import_trusted, listed_networks, read_mapping

DATA_KEY = "PatchDataModule"
"""Entry of a checkpoint with the names of the classes and the shape of the images."""

GEOMETRY = ("patch_size", "stride", "padding", "order", "repeat")
"""Keys of ``data`` that say how an image is cut into patches."""


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
        with torch.device(device), keyed_global_generator(0, "load"):  # the caller's random numbers stay as they are
            network = _build(config, content, file, (*listed_networks(), *trust))
        check_fits(content, network, file, "its configuration or its weights were changed")
    network.load_state_dict(content["state_dict"], assign=True)
    return network.eval().requires_grad_(False)


def _build(config: dict[str, Any], content: dict[str, Any], file: Path, trusted: Sequence[str]) -> Network:
    """The network of a configuration, with initial weights."""
    data = content.get(DATA_KEY)
    try:
        format = build_format(content, file, trusted)
        if not isinstance(data, dict) or "shape" not in data:
            raise UserError(f"{file} does not say what images it is for; train it again with this version")
        model, geometry = config["model"], {name: config["data"][name] for name in GEOMETRY}
        pairs = {name: tuple(value) for name, value in geometry.items() if isinstance(value, list)}
        patching, (channels, height, width) = Patching(**geometry | pairs), data["shape"]
        rows, columns = patching.grid(height, width)
        if (sites := patching.repeat * rows * columns) != format.sites:  # before their order is listed
            raise ValueError(f"{sites} patches, {format.sites} sites")
        _, patch_dim = patching.shape(channels, height, width)
        name = str(model["features"]["class_path"])
        feature_map = import_trusted(name, trusted, f"the configuration in {file}")
        if not (isinstance(feature_map, type) and issubclass(feature_map, nn.Module)):
            raise UserError(f"{file} names {name} as model.features, which is no Module")
        features = feature_map(patch_dim, **model["features"].get("init_args") or {})
        return Network(
            features, format, float(model["pixel_mean"]), patching, (channels, height, width), data["classes"]
        )
    except NotTrusted as refused:
        raise UserError(
            f"the configuration in {file} names {refused.name}, which would be run: if you know what it is, load it "
            f"with trust=[{refused.name!r}]"
        ) from refused
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as fault:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:120]
        raise UserError(f"{file} is damaged: its configuration makes no network ({reason})") from fault
