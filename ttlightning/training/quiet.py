"""What Lightning and W&B say on the terminal, and nobody can act on, is not said."""

import functools
import logging
import os
import warnings


@functools.cache
def quieten_libraries() -> None:
    """Silence the messages that Lightning and W&B have for every run; other warnings stay."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in (
        "The `srun` command is available on your system but is not used",  # a login node is where one tries things
        ".*LeafSpec.*",  # Lightning's own use of torch, and the next
        ".*distributed.nn.functional.all_gather is deprecated",
        "Total length of `list` across ranks is zero",  # no validation split
        ".*callbacks used to create the checkpoint",  # test and predict need none of them
        ".*recommended to use `self.log.*sync_dist=True",  # our metrics are the same on all devices already
        "The number of training batches .* is smaller than the logging interval",  # counted in calls; we log steps
        ".*Checkpoint directory .* exists and is not empty",  # a run that goes on
        ".*The dirpath has changed from",  # a run directory that was moved, or a new run from an older one's weights
    ):
        warnings.filterwarnings("ignore", message=expected)
    os.environ.setdefault("WANDB_SILENT", "true")
