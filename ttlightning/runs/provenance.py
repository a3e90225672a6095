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

from ttlightning.runs.identity import flat
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


def provenance(dataset: dict[str, Any], world_size: int) -> Masked:
    """The provenance of this process (command, code, packages, machine, data), and the names of masked values."""
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

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True).stdout

    try:
        commit, difference = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
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
        if self.name == "numerics.instructions" and isinstance(self.then, str) and isinstance(self.now, str):
            old, new = self.then.split(), self.now.split()
            changes = {"without": [i for i in old if i not in new], "also": [i for i in new if i not in old]}
            return f"{self.name}: now " + ", ".join(" ".join([how, *which]) for how, which in changes.items() if which)
        return f"{self.name}: {json.dumps(self.then)} -> {json.dumps(self.now)}"


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Differences of two provenances, sorted by importance; an entry that the older one lacks is no difference."""
    old, new, silent = _entries(then), _entries(now), unknown(then, now)
    names = [name for name in old | new if old.get(name) != new.get(name) and name not in silent]
    return [Difference(n, old.get(n), new.get(n), changes_bits(n)) for n in sorted(names, key=_importance)]


def unknown(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Entries that ``then`` lacks because an earlier version wrote it, sorted by importance."""
    old, new = _entries(then), _entries(now)
    silent = (n for n, value in new.items() if n not in old and value is not None and not _is_told(n, then))
    return sorted(silent, key=_importance)


def _is_told(name: str, record: dict[str, Any]) -> bool:
    """Whether a record without this entry means that there was nothing to record."""
    part: Any = record
    above = ""
    for key in name.split("."):
        if not isinstance(part, dict):
            return True  # {"git": None}: there was no checkout
        if key not in part:
            return above in OPEN
        part, above = part[key], f"{above}.{key}".removeprefix(".")
    return False


def changes_bits(name: str) -> bool:
    """Whether this entry of a record can change the weights."""
    return _importance(name) < len(CHANGES_BITS)


def _importance(name: str) -> int:
    """Position in ``CHANGES_BITS``; its length for other entries."""
    positions = (position for position, key in enumerate(CHANGES_BITS) if f"{name}.".startswith(f"{key}."))
    return next(positions, len(CHANGES_BITS))


def _entries(record: dict[str, Any]) -> dict[str, Any]:
    """The entries of a record that are compared, flat."""
    compared = {name: value for name, value in record.items() if name not in INCIDENTAL}
    return {name: value for name, value in flat(compared).items() if value != {}}
