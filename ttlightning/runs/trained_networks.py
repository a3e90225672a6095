"""The trained network in a checkpoint, without Lightning.

A checkpoint of ``fit`` has its complete configuration. A checkpoint of another trainer has the arguments of network and
data in plain values, under Lightning's names.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ttlightning.data.patches import Patching
from ttlightning.errors import UserError
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_global_generator
from ttlightning.runs.checkpoints import (
    CONFIG_KEY,
    DATA_ARGUMENTS,
    MODEL_ARGUMENTS,
    NETWORK_KEY,
    check_fits,
    read_checkpoint,
)
from ttlightning.runs.trained_formats import build_format
from ttlightning.runs.trust import IN_PYTHON, NotTrusted, import_trusted, listed_networks, read_mapping

DATA_KEY = "PatchDataModule"
"""Entry of a checkpoint with the names of the classes and the shape of the images."""

GEOMETRY = ("patch_size", "stride", "padding", "order", "repeat")
"""Keys of ``data`` that say how an image is cut into patches."""


class Described(NamedTuple):
    """What a checkpoint says about its network."""

    model: dict[str, Any]
    """arguments of ``Classifier`` in plain values"""
    images: dict[str, Any] | None
    """geometry, shape, classes and unit_pixels; None where the network takes patches only"""


def read_network(file: Path, trust: Sequence[str] = ()) -> Network:
    """The network that a checkpoint's configuration describes, with the checkpoint's weights, in eval mode.

    Raises:
        UserError: as ``ttlightning.load``.
    """
    content = read_checkpoint(file)
    described = describe_network(content, file)
    if described.images is None:
        raise UserError(f"{file} does not say what images it is for; train it again with this version")
    for device in ("meta", "cpu"):  # shapes first: a file may ask for more memory than its weights need
        with torch.device(device), keyed_global_generator(0, "load"):  # the caller's random numbers stay as they are
            network = _build(described, content, file, (*listed_networks(), *trust))
        check_fits(content, network, file, "its configuration or its weights were changed")
    network.load_state_dict(content["state_dict"], assign=True)
    return network.eval().requires_grad_(False)


def describe_network(content: dict[str, Any], file: Path, given: Collection[str] = ()) -> Described:
    """The arguments of the network in a checkpoint.

    Args:
        given: names of arguments that the caller has.

    Raises:
        UserError: a checkpoint without a configuration and without arguments.
    """
    with _saying_that_it_is_damaged(file):
        sizes = {name: content[NETWORK_KEY][name] for name in ("sites", "classes") if NETWORK_KEY in content}
        if CONFIG_KEY in content:
            config = read_mapping(content[CONFIG_KEY], file)
            data, model = config["data"], dict(config["model"])
            seen = content.get(DATA_KEY)
            steps = {name: data[name] for name in ("steps_per_execution", "microbatches") if name in data}
            model |= sizes | steps | {"seed": config.get("seed_everything", 0)}
            images = _images_of(data, seen) if isinstance(seen, dict) and "shape" in seen else None
            if images is not None:
                model["patch_dim"] = Patching(**images["geometry"]).patch_dim(images["shape"][0])
            return Described(model, images)
        if isinstance(model := content.get(MODEL_ARGUMENTS), dict):
            images = model.get("images")
            return Described(dict(model), _images_of(images, images) if isinstance(images, dict) else None)
    if not given:
        raise UserError(f"{file} has no configuration: load a checkpoint that fit has written")
    return Described(sizes, None)


def read_data(content: dict[str, Any], file: Path) -> tuple[dict[str, Any], bool]:
    """The arguments of the data in a checkpoint in plain values, and whether the data were given in Python.

    Raises:
        UserError: a checkpoint that does not say what data it was trained on.
    """
    with _saying_that_it_is_damaged(file):
        if CONFIG_KEY in content:
            config = read_mapping(content[CONFIG_KEY], file)
            values = dict(config["data"]) | {"seed": config.get("seed_everything", 0)}
        elif isinstance(content.get(DATA_ARGUMENTS), dict):
            values = dict(content[DATA_ARGUMENTS])
        else:
            raise UserError(f"{file} does not say what data it was trained on: make the data module by its class")
        from ttlightning.data.datasets import is_named  # torchvision takes a second to import

        return values, not is_named(values["dataset"])


def _images_of(geometry: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """``images`` of ``Described`` from the keys of ``data`` and from what the data have said in the checkpoint."""
    kept = {name: geometry[name] for name in GEOMETRY}
    pairs = {name: tuple(value) for name, value in kept.items() if isinstance(value, list)}
    channels, height, width = seen["shape"]
    return {
        "geometry": kept | pairs,
        "shape": (channels, height, width),
        "classes": seen["classes"],
        "unit_pixels": seen.get("unit_pixels", True) is True,
    }


def _build(described: Described, content: dict[str, Any], file: Path, trusted: Sequence[str]) -> Network:
    """The described network, with initial weights."""
    model, images = described
    with _saying_that_it_is_damaged(file):
        format = build_format(content, file, trusted)
        patching, (channels, height, width) = Patching(**images["geometry"]), images["shape"]
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
            features, format, float(model["pixel_mean"]), patching, (channels, height, width), images["classes"],
            images["unit_pixels"],
        )  # fmt: skip


@contextmanager
def _saying_that_it_is_damaged(file: Path) -> Iterator[None]:
    """Inside, an error of a configuration that makes no network becomes a ``UserError``."""
    try:
        yield
    except NotTrusted as refused:
        raise NotTrusted(*refused.names, source=f"the configuration in {file}", way=IN_PYTHON) from refused
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as fault:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:120]
        raise UserError(f"{file} is damaged: its configuration makes no network ({reason})") from fault
