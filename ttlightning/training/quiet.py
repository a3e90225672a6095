"""Messages of Lightning and W&B that a user of the commands cannot act on."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Final

LOGGERS: Final = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)

EXPECTED: Final = (
    "The `srun` command is available on your system but is not used",  # a trial on a login node
    ".*LeafSpec.*",  # Lightning's own use of torch, and the next
    ".*distributed.nn.functional.all_gather is deprecated",
    "Total length of `list` across ranks is zero",  # no validation split
    ".*callbacks used to create the checkpoint",  # test and predict need none of them
    ".*recommended to use `self.log.*sync_dist=True",  # our metrics are the same on all devices already
    "The number of training batches .* is smaller than the logging interval",  # counted in calls; we log steps
    ".*Checkpoint directory .* exists and is not empty",  # a run that goes on
    ".*The dirpath has changed from",  # a run directory that was moved, or a new run from an older one's weights
)
"""Warnings, as regular expressions of their beginning."""


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, these messages are silent; afterwards filters, logging levels and environment are as they were."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    was_set = "WANDB_SILENT" in os.environ
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not was_set:
            del os.environ["WANDB_SILENT"]
