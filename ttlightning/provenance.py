"""What a run was made from, and how two such records differ.

A record names no secret: the values of environment variables that are called key, token, secret or password are masked
wherever they turn up, and the home folder is written ``~``.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from ttlightning.formats.native import kernel_name

PACKAGES: Final = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "wandb", "numpy", "mlxtend")

CHANGES_BITS: Final = (
    "dataset", "git", "ttlightning", "packages.torch", "packages.numpy", "packages.lightning", "kernel", "cpu", "gpus",
    "world_size", "threads",
)  # fmt: skip
"""What can change a bit of the weights, the likeliest first; whatever else differs is only worth knowing."""

INCIDENTAL: Final = ("started", "argv", "wandb", "resumed")
"""What is different in any two runs and says nothing about their results."""

SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET: Final = 8  # a shorter value would mask innocent words


def provenance(dataset: dict[str, Any], world_size: int) -> dict[str, Any]:
    """What this run was made from: command, code, packages, machine, data."""
    package = Path(__file__).resolve().parent
    lock = package.parent / "requirements.lock"
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "git": _git(package.parent),
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
        "world_size": world_size,
        "dataset": dataset,
    }
    return scrubbed(record)


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


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def scrub(text: str) -> str:
    """``text`` without the values of secret environment variables, and with ``~`` for the home folder."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    for home in sorted({str(Path.home()), str(Path.home().resolve())} - {"/"}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text)
    return text


def scrubbed(content: Any) -> Any:
    """The same for every text inside lists and dictionaries."""
    if isinstance(content, str):
        return scrub(content)
    if isinstance(content, dict):
        return {key: scrubbed(value) for key, value in content.items()}
    return [scrubbed(part) for part in content] if isinstance(content, list) else content


class Difference(NamedTuple):
    """One entry of two records that is not the same in both."""

    name: str
    then: Any
    now: Any
    changes_bits: bool
    """whether it can change the weights"""


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """Where two records differ, what matters first."""
    old, new = (_flat({k: v for k, v in record.items() if k not in INCIDENTAL}) for record in (then, now))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = [Difference(name, old.get(name), new.get(name), _importance(name) < len(CHANGES_BITS)) for name in names]
    return sorted(found, key=lambda difference: _importance(difference.name))


def _importance(name: str) -> int:
    """Place in ``CHANGES_BITS``; its length for what is not there."""
    places = (place for place, key in enumerate(CHANGES_BITS) if name == key or name.startswith(f"{key}."))
    return next(places, len(CHANGES_BITS))


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat = {}
    for name, value in record.items():
        flat |= {f"{name}.{k}": v for k, v in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat
