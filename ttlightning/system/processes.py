"""The rank of this process among the processes of a run."""

import os
from typing import Final

RANK_VARIABLES: Final = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that launchers set, in Lightning's order: SLURM's is also set in processes that SLURM did not start."""


def is_first_process() -> bool:
    """Whether this process has rank 0, and so prints for all."""
    rank = next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), "0")
    by_lightning = "RANK" not in os.environ and "LOCAL_RANK" in os.environ
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank == "0" and (not by_lightning or node == "0")
