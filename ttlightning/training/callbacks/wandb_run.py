"""How a run is filed with Weights & Biases, so that its own pages compare runs without a click: tags and axes."""

import math
import os
import secrets
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import wandb
from lightning.pytorch import LightningModule, Trainer

from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor

LONGEST_TAG: Final = 64
"""Characters of a tag that W&B takes."""

PATIENCE: Final = 30.0
"""Seconds that W&B has to answer in."""

MODES: Final = ("offline", "online", "disabled")
OLD_MODES: Final = {"dryrun": "offline", "run": "online"}

AXES: Final = {
    "*": "trainer/global_step",
    "train/loss": "epoch",
    "train/acc": "epoch",
    "val/*": "epoch",
}
"""What a chart has at the bottom: steps, but epochs for what is measured once an epoch."""


@dataclass
class WandbOptions:
    """How Weights & Biases records the run.

    Args:
        mode: offline writes to the run directory only, online needs an account; default ``$WANDB_MODE``, else offline,
            and online for a run that ``wandb agent`` has started.
        project: the project that runs belong to.
        entity: user or team; by default the account's own.
        tags: words to filter runs by, beside those of data set, network and seed.

    Raises:
        UserError: a tag that is empty or too long.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str = "ttlightning"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not 1 <= len(tag) <= LONGEST_TAG:
                raise UserError(
                    f"wandb.tags has {tag!r} of {len(tag)} characters, W&B takes 1 to {LONGEST_TAG}; shorten it"
                )

    def chosen_mode(self) -> Literal["offline", "online", "disabled"] | str:
        """The mode that the options, the environment or a sweep's agent asks for."""
        sweep = "WANDB_SWEEP_ID" in os.environ
        return self.mode or _mode_of_environment() or ("online" if sweep else "offline")


def _mode_of_environment() -> str | None:
    """``$WANDB_MODE`` in whatever case; ``UserError`` where it is none of W&B's. It is set the way W&B reads it."""
    given = os.environ.get("WANDB_MODE")
    if not given:
        return None
    mode = OLD_MODES.get(given.lower(), given.lower())
    if mode not in MODES:
        raise UserError(f"WANDB_MODE is {given!r}, it must be one of {', '.join(MODES)}")
    os.environ["WANDB_MODE"] = mode
    return mode


def init_timeout() -> float:
    """Seconds that W&B has to answer in before a run starts: ``$WANDB_INIT_TIMEOUT``, else 30."""
    given = os.environ.get("WANDB_INIT_TIMEOUT") or str(PATIENCE)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"WANDB_INIT_TIMEOUT is {given!r}, it must be a number of seconds above 0")
    return seconds


def wandb_mistake(fault: Exception, mode: str) -> str:
    """Why W&B has begun no run: it did not answer, or a variable of its own is none that it takes."""
    lines = str(fault).splitlines()
    if isinstance(fault, wandb.Error):
        return f"W&B is {mode} and does not answer ({lines[0]}): use --wandb.mode offline, and wandb sync afterwards"
    told = " ".join(line.partition("[type=")[0].strip() for line in lines[1:3] or lines)
    return f"W&B does not take its settings, look at the variables WANDB_*: {told}"


def new_identifier() -> str:
    """Of a W&B run; a sweep's agent has chosen it already."""
    given = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    return given or secrets.token_hex(4)


def tags(trainer: Trainer, module: LightningModule, given: list[str]) -> list[str]:
    """The user's tags, and those that say data set, network, sizes and seed: each once."""
    format: ScoreTensor = module.format
    sizes = [f"d={format.sites}", f"n={format.mode_size}", f"r={format.rank}", f"seed={module.seed}"]
    own = [trainer.datamodule.describe()["name"], format.name, *filter(None, [format.kind]), *sizes]
    return list(dict.fromkeys([*given, *(tag[:LONGEST_TAG] for tag in own)]))


def define_axes(run: Any) -> None:
    """Charts of epochs over epochs and of steps over steps; neither is a chart of its own.

    The summary keeps the last value of everything, which is that of the network that is kept and tested. (A largest
    one beside it would turn the entry into two, which a sweep's ``metric`` cannot read.)
    """
    for axis in sorted(set(AXES.values())):
        run.define_metric(axis, hidden=True)
    for name, axis in AXES.items():
        run.define_metric(name, step_metric=axis)
