"""Options of Weights & Biases, and the tags and axes that sort and compare runs on its pages."""

import functools
import math
import os
import secrets
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import wandb
from lightning.pytorch import LightningModule, Trainer

from ttlightning.errors import UserError
from ttlightning.formats import ScoreFunction
from ttlightning.runs.run import Run, existing_runs, runs_root

LONGEST_TAG: Final = 64
"""Characters of the longest tag that W&B accepts."""

MODES: Final = ("offline", "online", "disabled")
OLD_MODES: Final = {"dryrun": "offline", "run": "online"}

AXES: Final = {
    "*": "trainer/global_step",
    "train/loss": "epoch",
    "train/acc": "epoch",
    "val/*": "epoch",
}
"""x-axis of each chart: steps, or epochs for values that are logged once an epoch."""


@dataclass
class WandbOptions:
    """How Weights & Biases records the run.

    Args:
        mode: offline writes to the run directory only, online needs an account. Default: ``$WANDB_MODE``, else online
            for a run that ``wandb agent`` has started, else offline.
        project: the project of the run. Default: ``$WANDB_PROJECT``, else ttlightning.
        entity: user or team. Default: ``$WANDB_ENTITY``, else the account's own.
        name: name of the run. Default: ``$WANDB_NAME``, else the experiment and the name of the run directory.
        group: runs of one group stand together. Default: ``$WANDB_RUN_GROUP``, else the experiment.
        notes: a longer text. Default: ``$WANDB_NOTES``.
        tags: to filter runs by, besides ``$WANDB_TAGS`` and the tags of data set, network and seed.

    Raises:
        UserError: if a tag is empty or too long.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str | None = None
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    notes: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for tag in self.tags:
            if not 1 <= len(tag) <= LONGEST_TAG:
                raise UserError(
                    f"wandb.tags has {tag!r} of {len(tag)} characters, W&B takes 1 to {LONGEST_TAG}; shorten it"
                )

    def labels(self, experiment: str, run: str, tags: list[str]) -> dict[str, Any]:
        """Arguments of ``wandb.init``: from the options, else from W&B's variables, else the defaults."""
        given = os.environ
        return {
            "project": self.project or given.get("WANDB_PROJECT") or "ttlightning",
            "entity": self.entity or given.get("WANDB_ENTITY") or None,
            "name": self.name or given.get("WANDB_NAME") or f"{experiment}-{run}",
            "group": self.group or given.get("WANDB_RUN_GROUP") or experiment,
            "job_type": given.get("WANDB_JOB_TYPE") or "fit",
            "notes": self.notes or given.get("WANDB_NOTES") or None,
            "tags": tags,
        }

    def chosen_mode(self) -> str:
        """The mode from the options, ``$WANDB_MODE`` in any case, or a sweep's agent, in this order.

        ``$WANDB_MODE`` is rewritten in W&B's spelling; ``UserError`` if it is none of W&B's modes.
        """
        if self.mode or not (given := os.environ.get("WANDB_MODE")):
            return self.mode or ("online" if "WANDB_SWEEP_ID" in os.environ else "offline")
        mode = OLD_MODES.get(given.lower(), given.lower())
        if mode not in MODES:
            raise UserError(f"WANDB_MODE is {given!r}, it must be one of {', '.join(MODES)}")
        os.environ["WANDB_MODE"] = mode
        return mode


def init_timeout() -> float:
    """Seconds that W&B has for its answer before a run starts: ``$WANDB_INIT_TIMEOUT``, else 30."""
    given = os.environ.get("WANDB_INIT_TIMEOUT") or "30"
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"WANDB_INIT_TIMEOUT is {given!r}, it must be a number of seconds above 0")
    return seconds


def new_identifier() -> str:
    """An identifier for a W&B run: ``$WANDB_RUN_ID``, else a random one.

    A variable that a shell keeps would give several runs one record: the second run has a random identifier, with a
    warning.
    """
    given = os.environ.get("WANDB_RUN_ID")
    if not given:
        return secrets.token_hex(4)
    for run in existing_runs(runs_root()):
        if run.provenance_file.exists() and run.provenance.get("wandb") == given:
            identifier = secrets.token_hex(4)
            warnings.warn(
                f"WANDB_RUN_ID is {given}, which {run} records under; this run records under {identifier}", stacklevel=2
            )
            return identifier
    return given


def tags(trainer: Trainer, module: LightningModule, given: list[str]) -> list[str]:
    """The user's tags, those of ``$WANDB_TAGS``, then data set, network, sizes and seed, without repetition."""
    given = [*given, *filter(None, (tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")))]
    format: ScoreFunction = module.format
    named = {"d": "sites", "n": "mode_size", "r": "rank", "width": "width"}
    sizes = [f"{short}={getattr(format, name)}" for short, name in named.items() if name in format.sizes]
    sizes.append(f"seed={module.seed}")
    own = [trainer.datamodule.describe()["name"], format.name, *filter(None, [format.kind]), *sizes]
    return list(dict.fromkeys([*given, *(tag[:LONGEST_TAG] for tag in own)]))


def open_wandb(run: Run, config: dict[str, Any], labels: dict[str, Any], patience: float) -> Any:
    """Open the W&B run in the run directory, with the complete configuration, filed under the experiment's name.

    W&B's own record of machine, user, folders and terminal is left out: it names the home folder, and the provenance
    says what of it matters. Every chart gets its x-axis; the axes get no charts of their own. The summary keeps the
    last value of each metric, which belongs to the network that is kept and tested: a second entry for the largest
    value would be unreadable for a sweep's ``metric``.

    Raises:
        UserError: where W&B does not answer, or does not take its settings.
    """
    provenance = run.provenance
    (run.path / "wandb").mkdir(exist_ok=True)
    # The service resolves a path in the folder where it was started; a full path would name the home folder.
    folder = run.path if Path.cwd() == _folder_of_the_service() else run.path.absolute()
    try:
        wandb_run = wandb.init(
            dir=str(folder),
            id=provenance["wandb"],
            resume="allow",
            config=config | {"provenance": provenance},
            settings=wandb.Settings(console="off", x_disable_meta=True, disable_git=True, init_timeout=patience),
            **labels,
        )
    except (wandb.Error, ConnectionError, ValueError) as fault:
        raise UserError(_mistake(fault, labels["mode"])) from fault
    for axis in sorted(set(AXES.values())):
        wandb_run.define_metric(axis, hidden=True)
    for name, axis in AXES.items():
        wandb_run.define_metric(name, step_metric=axis)
    return wandb_run


@functools.cache
def _folder_of_the_service() -> Path:
    """Working directory of the first call: W&B's service starts there and serves all runs of the process."""
    return Path.cwd()


def _mistake(fault: Exception, mode: str) -> str:
    """Why W&B has not started a run: no answer, or an invalid value in one of its variables."""
    lines = str(fault).splitlines()
    if isinstance(fault, wandb.Error):
        return f"W&B is {mode} and does not answer ({lines[0]}): use --wandb.mode offline, and wandb sync afterwards"
    reason = " ".join(line.partition("[type=")[0].strip() for line in lines[1:3] or lines)
    return f"W&B does not take its settings, look at the variables WANDB_*: {reason}"
