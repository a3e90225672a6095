"""The provenance of a run (code, packages, machine, data), and how two provenances differ.

Secrets are masked, see ``masking.py``.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from ttlightning.runs.masking import Masked, masked

PACKAGES: Final = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "wandb", "numpy", "mlxtend")

CHANGES_BITS: Final = (
    "dataset", "git", "source_sha256", "ttlightning", "packages.torch", "packages.numpy", "packages.lightning",
    "numerics", "kernel", "cpu", "gpus", "world_size", "threads",
)  # fmt: skip
"""Entries that can change a bit of the weights, the likeliest first; other differences change no result."""

INCIDENTAL: Final = ("started", "argv", "wandb", "resumed")
"""Entries that differ between any two runs and have no effect on their results."""

OPEN: Final = ("numerics.variables",)
"""Entries that list everything that was set: what they do not list was not set."""


def provenance(dataset: dict[str, Any], world_size: int) -> dict[str, Any]:
    """The provenance of this process: command, code, packages, machine, data."""
    found: dict[str, Any] = masked_provenance(dataset, world_size).content
    return found


def masked_provenance(dataset: dict[str, Any], world_size: int) -> Masked:
    """The same, with the names of the masked values."""
    import torch  # two records are compared without it

    from ttlightning.formats.kernels.native import kernel_name
    from ttlightning.runs.machine import cpu_name, numerics, source_sha256

    package = Path(__file__).resolve().parents[1]
    lock = package.parent / "requirements.lock"
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "git": _git(package.parent),
        "source_sha256": source_sha256(),
        "ttlightning": importlib.metadata.version("ttlightning"),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "requirements_lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        "image_digest": os.environ.get("TTLIGHTNING_IMAGE_DIGEST"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "kernel": kernel_name(),
        "numerics": numerics(),
        "world_size": world_size,
        "dataset": dataset,
    }
    return masked(record)


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that this package is imported from, and a hash of what differs from it."""
    if not (folder / ".git").exists():
        built_from = os.environ.get("TTLIGHTNING_GIT_SHA")  # set in the Docker image
        return {"commit": built_from, "dirty_diff_sha256": None} if built_from else None

    def run(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True).stdout

    try:
        commit, difference = run("rev-parse", "HEAD").decode().strip(), run("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):  # no git on the machine, or no commit yet
        return None
    return {"commit": commit, "dirty_diff_sha256": hashlib.sha256(difference).hexdigest() if difference else None}


class Difference(NamedTuple):
    """An entry with different values in two provenances."""

    name: str
    then: Any
    now: Any
    changes_bits: bool
    """whether it can change the weights"""

    def __str__(self) -> str:
        then, now = (json.dumps(value) for value in (self.then, self.now))
        if isinstance(self.then, str) and isinstance(self.now, str) and self.name == "numerics.instructions":
            old, new = self.then.split(), self.now.split()
            lost, gained = ([w for w in one if w not in other] for one, other in ((old, new), (new, old)))
            parts = (f"{what} {' '.join(words)}" for what, words in (("without", lost), ("also", gained)) if words)
            return f"{self.name}: now {', '.join(parts)}"
        return f"{self.name}: {then} -> {now}"


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Differences of two provenances, sorted by importance; an entry that the older one lacks is no difference."""
    old, new, silent = *(_entries(record) for record in (then, now)), unknown(then, now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in silent]
    found = [Difference(name, old.get(name), new.get(name), changes_bits(name)) for name in names]
    return sorted(found, key=lambda difference: _importance(difference.name))


def unknown(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Entries that ``then`` lacks because an earlier version wrote it, sorted by importance."""
    old, new = _entries(then), _entries(now)
    names = [n for n, value in new.items() if n not in old and value is not None and not _is_told(n, then)]
    return sorted(names, key=_importance)


def _is_told(name: str, record: dict[str, Any]) -> bool:
    """Whether a record without this entry means that there was nothing to record."""
    above = name.rpartition(".")[0]
    while above:
        *folders, last = above.split(".")
        part: Any = record
        for folder in folders:
            part = part.get(folder) if isinstance(part, dict) else None
        if isinstance(part, dict) and last in part:
            return above in OPEN or not isinstance(part[last], dict)  # {"git": None}: there was no checkout
        above = above.rpartition(".")[0]
    return False


def changes_bits(name: str) -> bool:
    """Whether this entry of a record can change the weights."""
    return _importance(name) < len(CHANGES_BITS)


def _importance(name: str) -> int:
    """Position in ``CHANGES_BITS``; its length for other entries."""
    places = (place for place, key in enumerate(CHANGES_BITS) if name == key or name.startswith(f"{key}."))
    return next(places, len(CHANGES_BITS))


def _entries(record: dict[str, Any]) -> dict[str, Any]:
    """The entries of a record that are compared, flat."""
    return _flat({name: value for name, value in record.items() if name not in INCIDENTAL})


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat = {}
    for name, value in record.items():
        flat |= {f"{name}.{k}": v for k, v in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat
