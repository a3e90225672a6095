"""Lightning's ``load_from_checkpoint`` for network and data, whose arguments are in the checkpoint.

A checkpoint of ``fit`` has the run's configuration. A checkpoint of another trainer has the arguments of network and
data under Lightning's names, in plain values. Both may name listed classes only, see ``runs/trust.py``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from jsonargparse import ArgumentParser

from ttlightning.data.patches import Patching
from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import check_fits, read_checkpoint
from ttlightning.runs.run import checkpoint_file
from ttlightning.runs.trained_networks import Described, describe_network, read_data
from ttlightning.runs.trust import IN_PYTHON, NotTrusted, only_listed, refused_names

SOURCES = ("train_dataset", "val_dataset", "test_dataset", "class_names")
"""Arguments of ``PatchDataModule.from_datasets`` that no checkpoint has."""


class ClassifierFromCheckpoint:
    """``load_from_checkpoint`` of ``Classifier``."""

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: torch.device | str | int | None = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        *,
        trust: Sequence[str] = (),
        **arguments: Any,
    ) -> Self:
        """The network of a checkpoint with its weights, optimizer and schedule, ready to train or to predict.

        Args:
            checkpoint_path: a ``.ckpt`` file or a run directory.
            map_location: device of the weights; default the CPU.
            hparams_file: nothing; the checkpoint has its arguments.
            strict: whether the names of all weights must agree; default True.
            weights_only: nothing but True or None; tensors and plain values only are read.
            trust: classes and modules from outside this package that the checkpoint may name.
            arguments: arguments of the class, instead of those of the checkpoint.

        Raises:
            UserError: no checkpoint, a damaged one, one of another network, or one that names a class that is neither
                listed nor in ``trust``.
        """
        file, content = _read(checkpoint_path, hparams_file, weights_only)
        described = describe_network(content, file, arguments)
        made = _made(cls, described.model, file, trust, arguments)
        model = cls(**made | arguments)
        model.take_images(*_images(described))
        if strict is not False:
            check_fits(content, model, file, "the arguments that were given are those of another network")
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"], strict=strict is not False)
        return model if map_location is None else model.to(_device(map_location))


class DataFromCheckpoint:
    """``load_from_checkpoint`` of ``PatchDataModule``."""

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = None,
        hparams_file: None = None,
        weights_only: bool | None = True,
        *,
        trust: Sequence[str] = (),
        **arguments: Any,
    ) -> Self:
        """The data module that a checkpoint was trained on; ``map_location`` has nothing to move.

        For data that were given in Python, ``train_dataset`` and the other sources of ``from_datasets`` are needed.

        Args and raises: as of ``Classifier.load_from_checkpoint``.
        """
        file, content = _read(checkpoint_path, hparams_file, weights_only)
        values, is_own = read_data(content, file)
        given = {name: arguments.pop(name) for name in SOURCES if name in arguments}
        if is_own and "dataset" not in arguments and "train_dataset" not in given:
            raise UserError(
                f"{file} was trained on data that were given in Python, called {values['dataset']}: give them again, "
                "load_from_checkpoint(..., train_dataset=..., test_dataset=...)"
            )
        if given:
            name = values["dataset"]
            values = {k: v for k, v in values.items() if k not in ("dataset", "root", "offline_fallback")}
            made = _made(cls, values, file, trust, arguments | {"dataset": name})
            data = cls.from_datasets(name=name, **given, **made | arguments)
        else:
            data = cls(**_made(cls, values, file, trust, arguments) | arguments)
        if isinstance(state := content.get(cls.__qualname__), dict):
            data.load_state_dict(state)
        return data


def _read(path: Any, hparams_file: Any, weights_only: bool | None) -> tuple[Path, dict[str, Any]]:
    if hparams_file is not None:
        raise UserError(f"hparams_file is {hparams_file}: the checkpoint has its arguments, give others by name")
    if weights_only is False:
        raise UserError("weights_only is False, which would let the file run code: leave it out")
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"checkpoint_path is a {type(path).__name__}, it must be the path of a file or a run directory")
    file = checkpoint_file(Path(path))
    return file, read_checkpoint(file)


def _made(
    cls: type, values: Mapping[str, Any], file: Path, trust: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of ``cls`` from plain values, as the command line makes them; those that are given are left out."""
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(cls, "part", skip=set(given), instantiate=False, fail_untyped=False)
    known = {name.removeprefix("part.") for name in names}
    kept = {name: value for name, value in values.items() if name in known}
    try:
        with only_listed(kept, trust):
            made = parser.instantiate_classes(parser.parse_object({"part": kept}))
    except Exception as fault:  # of jsonargparse's many kinds
        if refused := refused_names(str(fault), fault):
            raise NotTrusted(*refused, source=f"the configuration in {file}", way=IN_PYTHON) from fault
        if isinstance(fault, UserError) and not isinstance(fault, NotTrusted):
            raise
        reason = " ".join(str(fault).split())[:200]
        raise UserError(f"{file} has arguments that {cls.__name__} does not take: {reason}") from fault
    return {name: value for name, value in vars(made.part).items() if name in kept} if kept else {}


def _images(described: Described) -> tuple[Any, ...]:
    """Arguments of ``take_images``."""
    images = described.images
    if images is None:
        return None, None, (), True
    return Patching(**images["geometry"]), tuple(images["shape"]), tuple(images["classes"]), images["unit_pixels"]


def _device(map_location: Any) -> torch.device:
    try:
        return torch.device(map_location)
    except (TypeError, RuntimeError) as fault:
        raise UserError(
            f"map_location is {map_location!r:.60}, it must be a device such as 'cpu' or 'cuda:0'"
        ) from fault
