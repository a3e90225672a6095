"""What the terminal shows: the network in five lines, a line for each epoch, a bar for the running epoch.

loss = ln C    where all C scores of every sample are equal, with and without label smoothing
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ttlightning.rank.bounds import in_figures
from ttlightning.system.output import printable, terminal, wrapped

COLUMNS = (
    ("train/loss", "loss", "{:.4f}"),
    ("train/acc", "train", "{:.2%}"),
    ("val/acc", "val", "{:.2%}"),
)
"""Logged value, title and format of the entries of an epoch's line."""


AS_EQUAL = 1 - 1e-3
"""A loss above this part of ln C is no better than that of equal scores: they have died, or they explode."""

TEXT_AT = 12
"""Column in which the texts of the lines begin."""
PATHS = ("run",)
"""Titles of lines that stay whole on a terminal."""


class EpochProgress(ProgressBar):
    """A line that stays for each epoch, and below it a bar where the output is a terminal.

    Args:
        calls_per_refresh: training calls between two updates of the bar; a call makes one step or several.
    """

    looks_at_steps = False  # it shows calls

    def __init__(self, calls_per_refresh: int = 10) -> None:
        super().__init__()
        self.calls_per_refresh = calls_per_refresh
        self.console = terminal()
        self._enabled = True
        self._bar: Progress | None = None
        self._started = 0.0
        self._unreported: float | None = None
        self._validated = False
        self._said = False

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._said = False
        if self._is_shown(trainer):
            print_lines(self.console, describe_network(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer)
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the bar here, because an epoch that a resumed run continues has no start."""
        if self._bar is not None:
            return
        has_cursor = self.console.is_terminal and self.console.file.isatty()  # FORCE_COLOR makes the first true
        if self._is_shown(trainer) and has_cursor:
            columns = TextColumn("epoch {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=self.console, transient=True, refresh_per_second=4)
            epoch, batches = f"{trainer.current_epoch + 1}/{trainer.max_epochs}", int(self.total_train_batches)
            self._bar.add_task(epoch, total=batches, completed=batch_idx)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None and (batch_idx + 1) % self.calls_per_refresh == 0:
            self._bar.update(self._bar.task_ids[0], completed=batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_bar()
        self._unreported = time.perf_counter() - self._started

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_bar()

    def _report(self, trainer: Trainer) -> None:
        """Print the previous epoch's line: Lightning completes an epoch's values only after its last hook."""
        seconds, self._unreported = self._unreported, None
        if seconds is None or not self._is_shown(trainer):
            return
        metrics, width = trainer.callback_metrics, len(str(trainer.max_epochs))
        columns = [column for column in COLUMNS if column[0] in metrics and (self._validated or column[0] != "val/acc")]
        values = [f"{title} {form.format(float(metrics[key]))}" for key, title, form in columns]
        self._validated = False  # an epoch without validation would repeat an old value
        values.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.1e}")
        line = [f"epoch {trainer.current_epoch:>{width}}/{trainer.max_epochs}", *values, f"{seconds:.1f} s"]
        self.console.print("   ".join(line), soft_wrap=True, highlight=False)
        self._say_nothing_is_learned(trainer)

    def _say_nothing_is_learned(self, trainer: Trainer) -> None:
        """One line for a run, from its second epoch on, if the loss is no better than that of equal scores."""
        loss, classes = trainer.callback_metrics.get("train/loss"), trainer.lightning_module.format.classes
        if self._said or loss is None or trainer.current_epoch < 2 or float(loss) < AS_EQUAL * math.log(classes):
            return
        self._said = True
        text = f"nothing: the loss of equal scores is ln {classes} = {math.log(classes):.4f}. "
        text += "Try another model.optimizer.lr, or trainer.gradient_clip_val 1.0"
        print_lines(self.console, {"learned": text})

    def _is_shown(self, trainer: Trainer) -> bool:
        return self._enabled and trainer.is_global_zero

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_lines(console: Console, rows: Mapping[str, str]) -> None:
    """Title and text of each row; a terminal gets long texts in several lines, except for paths, to be copied.

    In a file or pipe each row is one line. Brackets in a path are no markup.
    """
    for title, text in rows.items():
        text = printable(text)
        if console.is_terminal and title not in PATHS:
            text = wrapped(text, max(console.width - TEXT_AT, 1)).replace("\n", "\n" + " " * TEXT_AT)
        line = Text.assemble((f"{title:<{TEXT_AT - 2}}", "bold"), "  ", text)
        console.print(line, soft_wrap=True, highlight=False)


def describe_network(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """The data, the network, and the width of a shallow network that equals it."""
    format, features, data = module.format, module.features, trainer.datamodule.describe()
    sizes = ", ".join(f"{data[part]:,} {part}" for part in ("train", "validation", "test"))
    rows = {
        "data": f"{data['name']}: {sizes}",
        "features": f"n = {features.mode_size} of each {data['patch_dim']}-value patch, {features.formula()}",
        "weights": f"{format.name}, {format.described_sizes()}",
        "parameters": f"{sum(p.numel() for p in module.parameters()):,}",
    }
    if (cut := data.get("cut")) is not None:
        longer = f", {sum(cut.values()):,} longer ones are cut" if any(cut.values()) else ""
        rows["sequences"] = (
            f"of {data['shortest']:,} to {format.sites:,} sites{longer}; ranks are those of {format.sites:,}"
        )
    moved = trainer.datamodule.augmentation.epochs
    if moved is not None and 0 <= trainer.max_epochs <= moved:
        rows["images"] = f"moved in every epoch: data.augmentation.epochs is {moved}, of {trainer.max_epochs} epochs"
    if module.looks_at_steps is not None:
        rows["steps"] = f"each in a call of its own, for {module.looks_at_steps}"
    if (tensor := format.weight_tensor()) is None:
        rows["ranks"] = f"none: {format.name} has no weight tensor"
    elif not tensor.shallow and (units := tensor.generic_rank()) is not None:
        rows["shallow"] = f"almost every such tensor has CP-rank >= {in_figures(units)}"
    return rows


def describe_result(result: dict[str, Any], run: Path | None) -> dict[str, str]:
    """Test accuracy, ranks of the trained tensors, and the run directory."""
    metrics, rank = result["metrics"], result["rank"]
    rows = {}
    if "test/acc" in metrics:
        rows["test"] = f"{metrics['test/acc']:.2%} right, loss {metrics['test/loss']:.4f}, on {result['dataset']}"
    if rank:
        size, classes = rank["sketch_size"], len(rank["stable_rank"])
        stable = sum(rank["stable_rank"]) / classes
        rows["ranks"] = f"odd/even sketch {min(rank['sketch_rank'])} of {size}, stable rank {stable:.2f}"
    if "tt_rank" in rank:
        rows["ranks"] += f", TT-rank {min(rank['tt_rank'])} to {max(rank['tt_rank'])} in use"
    if "certified" in rank:
        rows["certified"] = f"CP-rank of every class tensor >= {in_figures(min(rank['certified']))}; "
        rows["certified"] += _explain_certified(rank)
    if "not_certified" in rank:
        rows["certified"] = f"nothing: {rank['not_certified']}"
    rows["run"] = str(run)
    return rows


def _explain_certified(rank: dict[str, Any]) -> str:
    """The certified rank as parameters of a shallow network, or what keeps it from being larger."""
    if "shallow_over_chain" in rank:
        times = in_figures(rank["shallow_over_chain"])
        if rank["shallow_over_chain"] == 0:
            return "a shallow network of this width has fewer parameters"
        return f"an equivalent shallow network has at least {times} times the parameters"
    if "cp_rank_at_most" in rank:
        return f"it cannot exceed {in_figures(rank['cp_rank_at_most'])}, the units of this shallow network"
    size = rank["certified_size"]
    return f"seen in {size} x {size} scores" + (", which show no more" if min(rank["certified"]) == size else "")
