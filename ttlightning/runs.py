"""A run directory: where a run keeps its configuration, provenance, metrics, result and checkpoints.

<root>/<experiment>/<n>/  config.yaml  provenance.json  metrics.csv  result.json  checkpoints/  wandb/  rank/
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.formats.native import kernel_name

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "wandb", "numpy", "mlxtend")


def runs_root() -> Path:
    """``$TTLIGHTNING_RUNS``, else ``runs`` in the working directory."""
    return Path(os.environ.get("TTLIGHTNING_RUNS") or "runs")


def create_run_directory(root: Path, experiment: str) -> Path:
    """Make and return ``root/experiment/n`` with the first n above those that exist.

    Making the directory is what claims the number, so that two runs started at one moment get two directories.

    Raises:
        UserError: where ``root`` cannot be written.
    """
    parent = root / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=-1) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:
                number += 1
    except OSError as fault:
        raise UserError(
            f"cannot make a run directory in {parent}: {fault.strerror}; "
            "set $TTLIGHTNING_RUNS to a folder you can write"
        ) from fault


def check_experiment_name(name: str) -> str:
    """``name`` if it can be a folder's name; ``UserError`` if not."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(f"experiment is {name!r}, it must be letters, digits and . _ + - (it names a folder)")
    return name


def weights_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` so that a reader finds the old file or the whole new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def provenance(dataset: dict[str, Any], world_size: int) -> dict[str, Any]:
    """What this run was made from: command, code, packages, machine, data."""
    package = Path(__file__).resolve().parent
    lock = package.parent / "requirements.lock"
    return {
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
