"""Callbacks: rank check, run directory, progress."""

from ttlightning.callbacks.progress import EpochProgress
from ttlightning.callbacks.rank_check import RankCheck
from ttlightning.callbacks.run_directory import RunDirectory

__all__ = ["EpochProgress", "RankCheck", "RunDirectory"]
