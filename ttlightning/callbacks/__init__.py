"""Callbacks: rank check, run directory, figures, progress."""

from ttlightning.callbacks.progress import EpochProgress
from ttlightning.callbacks.rank_check import RankCheck
from ttlightning.callbacks.run_directory import RunDirectory
from ttlightning.callbacks.run_figures import RunFigures

__all__ = ["EpochProgress", "RankCheck", "RunDirectory", "RunFigures"]
