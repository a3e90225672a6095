"""Network and data in plain values, as a configuration has them, from which the same objects are made again.

A class, or a ``functools.partial`` of one with keywords, becomes ``{class_path: ..., init_args: {...}}``.
"""

import inspect
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from lightning.pytorch import LightningDataModule, LightningModule

from ttlightning.data.datasets import default_root
from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import DATA_ARGUMENTS, MODEL_ARGUMENTS
from ttlightning.system.parsing import class_made_by

SIZES: Final = ("sites", "patch_dim", "classes", "steps_per_execution", "microbatches", "seed")
"""Arguments of ``Classifier`` that are no keys of the section ``model``: they follow from the data and the seed."""


def describe_model(model: LightningModule) -> dict[str, Any]:
    """The section ``model`` of a configuration of a ``Classifier``.

    Raises:
        UserError: a factory that no configuration can name, such as a lambda.
    """
    factories = model.factories | {"optimizer": model.optimizer, "scheduler": model.scheduler}
    described = {name: factory and _describe(name, factory) for name, factory in factories.items()}
    others = (name for name in inspect.signature(type(model)).parameters if name not in (*described, *SIZES))
    return described | {name: _plain(name, getattr(model, name)) for name in others if hasattr(model, name)}


def describe_data(data: LightningDataModule) -> dict[str, Any]:
    """The section ``data`` of a configuration of a ``PatchDataModule``.

    Of data that were given in Python it has the name, from which they cannot be read again.
    """
    root = None if data.root == default_root() else str(data.root)
    names = ("batch_size", "steps_per_execution", "microbatches", "evaluation_batch_size", "validation", "longest")
    return (
        {"dataset": data.dataset, "root": root, "offline_fallback": data.offline_fallback}
        | geometry(data.patching)
        | {"augmentation": asdict(data.augmentation)}
        | {name: getattr(data, name) for name in names}
    )


def geometry(patching: Any) -> dict[str, Any]:
    """The arguments of ``Patching``; pairs are lists, as in a configuration."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(patching).items()}


def add_arguments(checkpoint: dict[str, Any], model: LightningModule, data: Any) -> None:
    """Add Lightning's entries for the arguments of the module and of a ``PatchDataModule`` to a checkpoint.

    Nothing is added for a factory that cannot be described: ``load_from_checkpoint`` then needs it as an argument.
    """
    try:
        described = describe_model(model)
    except UserError:
        return
    images = None
    if model.patching is not None and model.image_shape is not None:
        images = geometry(model.patching) | {"shape": list(model.image_shape), "classes": list(model.class_names)}
        images["unit_pixels"] = model.unit_pixels
    sizes = {name: getattr(model.format, name, None) for name in ("sites", "classes")}
    sizes |= {name: getattr(model, name) for name in SIZES if name not in sizes}
    checkpoint[MODEL_ARGUMENTS] = described | sizes | {"images": images}
    if hasattr(data, "patching"):
        checkpoint[DATA_ARGUMENTS] = describe_data(data) | {"seed": data.seed}


def _describe(name: str, factory: Any) -> dict[str, Any]:
    """A factory as ``{class_path, init_args}``."""
    kind, arguments = factory, {}
    if isinstance(factory, partial):
        kind, arguments = class_made_by(factory) or factory.func, dict(factory.keywords)
        if factory.args and kind is factory.func:
            raise UserError(f"model.{name} is a partial with positional arguments: give them by name")
    path = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    if not inspect.isclass(kind) or "<" in path or path.startswith("__main__."):
        raise UserError(
            f"model.{name} is {kind!r:.60}, which no configuration can name: give a class of a module, or a "
            "functools.partial of one"
        )
    return {"class_path": path, "init_args": _plain(f"{name}.init_args", arguments)}


def _plain(where: str, value: Any) -> Any:
    """The value with lists for tuples and text for paths; ``UserError`` if it holds an object."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(where, part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{where}.{key}", part) for key, part in value.items()}
    raise UserError(f"model.{where} has {value!r:.60}, which no configuration can hold: give plain values")
