"""Callbacks: rank check, run directory, figures, progress."""

from ttlightning.training.callbacks.progress import EpochProgress
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.callbacks.run_directory import RunDirectory
from ttlightning.training.callbacks.run_figures import RunFigures

__all__ = ["EpochProgress", "RankCheck", "RunDirectory", "RunFigures"]
