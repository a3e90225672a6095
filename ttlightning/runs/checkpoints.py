"""Reading checkpoints: their seal, tensors and plain values only, and whether they fit a network."""

import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor, nn

from ttlightning.errors import UserError
from ttlightning.runs.files import write_whole
from ttlightning.runs.safetensors import read_safetensors
from ttlightning.runs.seals import Damaged, check_seal, seal

CONFIG_KEY: Final = "ttlightning_config"
"""Key of the run's complete configuration, as YAML."""

NETWORK_KEY: Final = "ttlightning_network"
"""Key of the format's name and sizes."""

MODEL_ARGUMENTS: Final = "hyper_parameters"
DATA_ARGUMENTS: Final = "datamodule_hyper_parameters"
"""Lightning's keys of the arguments of network and data, in plain values where no configuration has them."""

RUN_KEY: Final = "ttlightning_run"
"""Key of the progress of the run's tables."""

ORIGIN_KEY: Final = "ttlightning_origin"
"""Key of where the weights come from, in a checkpoint that has weights and no state to go on from."""

STATEMENT: Final = "ttlightning"
"""Text in the header of released weights: the entries of a checkpoint but its weights, as JSON."""

VERSION: Final = re.compile(r"\d+(\.\d+)*(\.?(a|b|rc|post|dev)\d+)*(\+\w[\w.]*)?")

COUNTS: Final = ("ready", "started", "processed", "completed", "_batches_that_stepped")
"""Names of the counters in Lightning's loops."""

STEPS_KEY: Final = "ttlightning_steps_per_execution"
"""Key of the number of steps in a call: the position in the epoch is counted in calls."""

SUMS_KEY: Final = "ttlightning_epoch_sums"
"""Key of the sums of the training metrics within an epoch, a row for each process."""

VALUES_KEY: Final = "ttlightning_epoch_values"
"""Key of the epoch's losses and accuracies so far, which a schedule can follow."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The checkpoint's contents: tensors and plain values only, on the CPU.

    Raises:
        UserError: a damaged file, one that holds pickled objects, one that is no Lightning checkpoint, or one with an
            entry of another kind than this package or Lightning writes.
    """
    try:
        if file.suffix == ".safetensors":
            content = _read_release(file)
        else:
            sealed = file.read_bytes()
            check_seal(sealed)
            content = torch.load(io.BytesIO(sealed), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except UnpicklingError as fault:
        raise UserError(
            f"{file} is damaged or holds pickled objects; only tensors and plain values are read from a checkpoint, "
            "so that a file from elsewhere cannot run code"
        ) from fault
    except Exception as fault:  # a forged pickle can make torch's reader raise whatever it likes
        reason = " ".join(str(fault).split())[:120] or type(fault).__name__
        way_out = "use an earlier one of its folder" if isinstance(fault, Damaged) else "is it a checkpoint?"
        raise UserError(f"{file} is not a whole checkpoint ({reason}); {way_out}") from fault
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{file} is not a checkpoint of a training run: it has no state_dict")
    for name, (holds, kind) in ENTRIES.items():
        if name in content and not holds(content[name]):
            raise UserError(f"{file} is not a checkpoint of a training run: its {name} is not {kind}")
    return content


def _read_release(file: Path) -> dict[str, Any]:
    """The content of a released file, as that of a checkpoint.

    Raises:
        UserError: if it is damaged, or no released file.
    """
    state, metadata = read_safetensors(file)
    try:
        stated = json.loads(metadata[STATEMENT])
        origin = stated[ORIGIN_KEY]
    except (LookupError, TypeError, ValueError, RecursionError) as fault:
        raise UserError(f"{file} holds no released network: its header does not say which") from fault
    if weights_sha256(state) != origin:
        raise UserError(f"{file} is damaged: its weights are not those that its header names")
    return stated | {"state_dict": state}


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Replace a checkpoint atomically, with its seal."""
    archive = io.BytesIO()
    torch.save(content, archive)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, seal(archive.getvalue()))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and VERSION.fullmatch(value) is not None


def _is_weights(value: Any) -> bool:
    """Names and dense tensors that are all there: one that repeats its entries would grow when it is copied."""
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and type(tensor) is Tensor
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
        for name, tensor in value.items()
    )


def _is_loops(value: Any) -> bool:
    """Whether progress is a mapping at every level, and its counters are numbers."""
    return isinstance(value, dict) and all(
        _is_count(entry) if name in COUNTS else _is_loops(entry)
        for name, entry in value.items()
        if name in COUNTS or isinstance(entry, dict) or str(name).endswith("progress")
    )


def _is_progress(value: Any) -> bool:
    metrics = value.get("metrics") if isinstance(value, dict) else None
    return (
        isinstance(metrics, dict)
        and all(isinstance(name, str) and type(number) is float for name, number in metrics.items())
        and _is_count(value.get("rows"))
        and type(value.get("seconds")) in (int, float)
        and all(type(value.get(name, "")) is str for name in ("validated", "data_sha256"))
    )


def _is_values(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, float) for k, v in value.items())


def _is_sums(value: Any) -> bool:
    return _is_weights({"": value}) and value.dtype == torch.float64 and value.ndim == 2 and value.shape[1] == 3


ENTRIES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "state_dict": (_is_weights, "tensors by their names"),
    "epoch": (_is_count, "a number of epochs"),
    "global_step": (_is_count, "a number of steps"),
    "pytorch-lightning_version": (_is_version, "a version"),
    "loops": (_is_loops, "a state by the loops' names"),
    "callbacks": (lambda value: isinstance(value, dict), "a state by the callbacks' names"),
    "optimizer_states": (lambda value: isinstance(value, list), "a list of states"),
    "lr_schedulers": (lambda value: isinstance(value, list), "a list of states"),
    CONFIG_KEY: (lambda value: isinstance(value, str), "text"),
    ORIGIN_KEY: (lambda value: isinstance(value, str), "text"),
    RUN_KEY: (_is_progress, "what a run had come to"),
    STEPS_KEY: (_is_count, "a number of steps"),
    SUMS_KEY: (_is_sums, "a row of three sums for each process"),
    VALUES_KEY: (_is_values, "numbers by name"),
}
"""Entry: whether a value is of its kind, and what kind that is."""


def check_fits(
    content: dict[str, Any],
    model: nn.Module,
    file: Path,
    way_out: str = "leave --config out to use the configuration inside the checkpoint",
) -> None:
    """Raise ``UserError`` where the checkpoint belongs to a network of other shapes, naming the first difference."""
    ours, theirs = model.state_dict(), content["state_dict"]
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        here, there = (tuple(state[name].shape) if name in state else "absent" for state in (ours, theirs))
        if here != there:
            raise UserError(
                f"{file} is a checkpoint of another network: {name} is {there} there and {here} here; {way_out}"
            )


def check_classes(state: Any, names: Sequence[str], source: object, where: str) -> None:
    """Raise ``UserError`` where a data module's state in the checkpoint ``source`` has classes of other names.

    Args:
        names: the classes of the data here.
        where: what has these classes, and the way out.
    """
    theirs = state.get("classes") if isinstance(state, dict) else None
    if not isinstance(theirs, list):  # of an older version
        return
    for number, (there, here) in enumerate(itertools.zip_longest(theirs, names)):
        if there != here:
            raise UserError(
                f"{source} was trained on other classes: number {number} is {there!r} there and {here!r} in {where}"
            )


def weights_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names.

    Different states give different texts: a name ends at the first space or is a JSON string, type and shape end with
    the line and say how many bytes follow. So the text can be read in one way only, and two states with one hash would
    be a collision of SHA-256.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        plain = name.isprintable() and not {" ", '"'} & set(name)
        title = name if plain else json.dumps(name, ensure_ascii=False)
        digest.update(f"{title} {tensor.dtype} {tuple(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
