"""A run directory: where a run keeps its configuration, provenance, metrics, result and checkpoints.

<root>/<experiment>/<n>/  config.yaml  provenance.json  metrics.csv  result.json  checkpoints/  wandb/  rank/
"""

import fcntl
import hashlib
import json
import os
import re
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ttlightning.errors import UserError


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


def latest_run(root: Path, experiment: str | None) -> Path:
    """The run of ``experiment`` with the highest number; of all experiments, the one that was begun last.

    Raises:
        UserError: where there is none.
    """
    found = [
        config.parent for config in root.glob(f"{experiment or '*'}/*/config.yaml") if config.parent.name.isdigit()
    ]
    if not found:
        raise UserError(f"there is no run in {root / (experiment or '')} to go on with; name one such as runs/eq/0")
    return max(found, key=lambda run: int(run.name) if experiment else (run / "config.yaml").stat().st_mtime_ns)


def lock_run(run: Path) -> IO[bytes]:
    """Claim the run, by a lock on its ``config.yaml``: until the returned file is closed, or the process ends.

    Raises:
        UserError: where another process has it.
    """
    file = (run / "config.yaml").open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        file.close()
        raise UserError(f"{run} is being written by another process; wait for it, or stop it first") from fault
    return file


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
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())  # NumPy knows no bfloat16
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one or the whole new one, never a part, whatever happens meanwhile.

    The bytes are on the disk before the name is theirs; a fault on the way leaves the old file and nothing else.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """The same for a JSON object."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run directory; ``UserError`` where there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as fault:
        raise UserError(f"{path} does not exist; name the directory of a finished run, such as runs/eq/0") from fault
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path} cannot be read: {fault}") from fault
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content
