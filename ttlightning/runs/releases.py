"""Released weights: trained networks under a name, such as ``best/eq``, in small files that come with the package.

<folder>/index.json           name: file, its SHA-256, and that of the weights
<folder>/best/eq.safetensors  the weights, and in the header the configuration of their run
<folder>/best/eq.md           the model card: data, recipe, accuracy, limits

The folder is ``weights`` in this package, or ``$TTLIGHTNING_WEIGHTS``, which is asked first. A released file is read as
a checkpoint that has weights and no state to go on from.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from ttlightning.errors import UserError
from ttlightning.runs.files import read_json, write_json
from ttlightning.system.paths import expanded

FOLDER: Final = Path(__file__).parents[1] / "weights"
INDEX: Final = "index.json"
LARGEST: Final = 1_000_000
"""Bytes of a released file."""

KEPT: Final = ("epoch", "global_step", "pytorch-lightning_version")


def release_folders() -> list[Path]:
    """The folders of released weights, in the order in which they are asked."""
    own = os.environ.get("TTLIGHTNING_WEIGHTS")
    return [expanded(own), FOLDER] if own else [FOLDER]


def released_names() -> list[str]:
    """The names that ``find_release`` knows."""
    return sorted({name for folder in release_folders() for name in _index(folder)})


def find_release(name: str) -> Path | None:
    """The file of the released network of this name, None where there is none.

    Raises:
        UserError: if the file is missing or is not the one that was released.
    """
    for folder in release_folders():
        if (entry := _index(folder).get(name)) is None:
            continue
        file = folder / str(entry.get("file"))
        try:
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as fault:
            raise UserError(f"{name} is released, and its file {file} cannot be read: {fault.strerror}") from fault
        if sha256 != entry.get("sha256"):
            raise UserError(
                f"{file} is not what was released as {name}: its SHA-256 is {sha256[:12]}..., "
                f"{folder / INDEX} says {str(entry.get('sha256'))[:12]}..."
            )
        return file
    return None


def _index(folder: Path) -> dict[str, Any]:
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    if not all(isinstance(entry, dict) for entry in index.values()):
        raise UserError(f"{folder / INDEX} is no index of released weights: an entry is not an object")
    return index


def write_release(folder: Path, name: str, checkpoint: Path, card: str) -> Path:
    """Release the network of a run's checkpoint under ``name``: file, card and entry of the index; the file.

    Raises:
        UserError: if the name is taken by other weights, or the file would be larger than ``LARGEST``.
    """
    import yaml

    from ttlightning.runs.checkpoints import (
        CONFIG_KEY,
        NETWORK_KEY,
        ORIGIN_KEY,
        STATEMENT,
        read_checkpoint,
        weights_sha256,
    )
    from ttlightning.runs.safetensors import write_safetensors
    from ttlightning.runs.trained_networks import DATA_KEY
    from ttlightning.runs.trust import read_mapping

    content, file = read_checkpoint(checkpoint), folder / f"{name}.safetensors"
    state = content["state_dict"]
    if (size := sum(weight.nbytes for weight in state.values())) > LARGEST:
        raise UserError(f"{name} has {size:,} bytes of weights, a released file has at most {LARGEST:,}")
    config = read_mapping(content[CONFIG_KEY], checkpoint)
    config |= {"ckpt_path": None, "data": config["data"] | {"root": None}}  # places on the machine that trained it
    stated = {key: content[key] for key in (*KEPT, NETWORK_KEY, DATA_KEY)}
    stated |= {CONFIG_KEY: yaml.safe_dump(config, sort_keys=False), ORIGIN_KEY: weights_sha256(state)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(file, state, {STATEMENT: json.dumps(stated)})
    file.with_suffix(".md").write_text(card)
    entry = {
        "file": file.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "weights_sha256": stated[ORIGIN_KEY],
        "bytes": file.stat().st_size,
    }
    write_json(folder / INDEX, dict(sorted((_index(folder) | {name: entry}).items())))
    return file
