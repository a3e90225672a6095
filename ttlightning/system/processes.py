"""Which of a run's processes this one is."""

import os
from typing import Final

RANK_VARIABLES: Final = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where launchers write a process's number, in Lightning's order: SLURM sets its own for processes that it did not
start."""


def is_first_process() -> bool:
    """Whether this process has rank 0, and so speaks for all."""
    rank = next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), "0")
    by_lightning = "RANK" not in os.environ and "LOCAL_RANK" in os.environ
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank == "0" and (not by_lightning or node == "0")
