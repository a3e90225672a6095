"""Lightning's Trainer with the defaults of this package; ``predict`` writes a file."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from ttlightning.errors import Fault, UserError
from ttlightning.runs.files import write_whole
from ttlightning.runs.run import Run
from ttlightning.system import signals
from ttlightning.system.paths import expanded
from ttlightning.training import precision, slurm
from ttlightning.training.datamodule import PatchDataModule
from ttlightning.training.faults import refused_in_one_line
from ttlightning.training.restoring import CheckpointConnector
from ttlightning.training.steps import steps_of_a_run

GPU_CHECK: Final = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Importing Lightning sets this variable. Without a GPU, torch then searches for the driver's library at every
optimizer step; scripts/epoch_overhead.py --gpu_check prints the cost."""


class NoSignals(_SignalConnector):
    """No signal handlers of Lightning.

    On SIGUSR1 from SLURM, Lightning's handlers write ``hpc_ckpt_*.ckpt`` into the working directory and queue the job
    again, whatever its script says. On SIGTERM, they communicate with other processes in the middle of a communication.
    """

    def register_signal_handlers(self) -> None:
        pass


class Trainer(LightningTrainer):
    """Lightning's Trainer with a faster ``fit`` on machines without a GPU, and ``predict`` into a CSV file.

    It takes no checkpoint but the one that is named. ``ttlightning.system.signals`` handles signals. ``run`` is the run
    directory of a fit, set by ``RunDirectory``; None if nothing is kept.

    Raises:
        UserError: SLURM starts another number of processes than the trainer has; a precision that the formats cannot
            compute in.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        slurm.check_variables()
        slurm.check_requeue(kwargs.get("plugins"))
        precise = precision.honoured(self, kwargs.get("precision"))
        with slurm.said_in_one_line(), refused_in_one_line(), precise:
            super().__init__(*args, **kwargs)
        slurm.check_tasks(self.num_devices, self.num_nodes)
        self.run: Run | None = None
        self.probabilities: torch.Tensor | None = None
        """what ``predict`` has returned"""
        self._signal_connector = NoSignals(self)
        self._checkpoint_connector = CheckpointConnector(self)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        value = None if torch.cuda.is_available() else os.environ.pop(GPU_CHECK, None)
        try:
            super().fit(*args, **kwargs)
        finally:
            if value is not None:
                os.environ[GPU_CHECK] = value

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps of the run, counted without making the data loader: see ``steps_of_a_run``."""
        data = self.datamodule
        if isinstance(data, PatchDataModule) and self.max_epochs != -1:
            return steps_of_a_run(self, data.batches)
        return super().estimated_stepping_batches

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        images: Path | list[Path] | None = None,
        output: Path = Path("predictions.csv"),
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
    ) -> torch.Tensor:
        """Write the predicted class and the class probabilities of every image to a CSV file.

        Columns: index and label, or file and index; predicted; p0, p1, ... These columns number the classes. Classes
        with names, as in a folder of pictures, also have the columns ``label_name`` and ``predicted_name``.

        Args:
            images: a picture (PNG, JPEG), an IDX file, a folder of pictures, or a list of these; default the test set
                with its labels.
            dataloaders: batches of another loader instead; their rows have the column index and no label.
            output: file to write, completely or not at all; an existing file is not replaced.
            ckpt_path: checkpoint of the weights.
            weights_only: whether only tensors and plain values are read from the checkpoint.

        Returns:
            probabilities (samples, classes).
        """
        if self.world_size > 1:
            raise UserError(f"predict writes one file on one device, got {self.world_size}; use --trainer.devices 1")
        output = expanded(output)
        _check_that_it_is_free(output)
        if not output.parent.is_dir():
            raise UserError(f"{output.parent} is not a folder; make it first or name another with --output")
        if images is not None:
            if datamodule is None:
                raise UserError("predict reads images for a data module: give one, or a loader of the images alone")
            own = datamodule.take_images(images if isinstance(images, list) else [images])
        parts = super().predict(model, dataloaders, datamodule, True, ckpt_path, weights_only)
        if not parts or isinstance(parts[0], list):
            raise UserError("predict writes one file: give it one loader, with at least one batch")
        probabilities, predicted = (torch.cat(part) for part in zip(*parts, strict=True))
        if not isinstance(datamodule, PatchDataModule):
            source = {"index": range(len(predicted))}
        elif images is None:
            labels = torch.cat([batch.labels for batch in self.predict_dataloaders]).tolist()
            source = {"index": range(len(labels)), "label": labels}
        else:
            source = dict(zip(("file", "index"), zip(*own.sources, strict=True), strict=True))
        signals.hold("when the predictions are written")
        names = datamodule.spec.names if isinstance(datamodule, PatchDataModule) else ()
        source = {column: values[: len(predicted)] for column, values in source.items()}  # limit_predict_batches
        content = _table(source, predicted.tolist(), probabilities, names)
        self.probabilities = probabilities
        _check_that_it_is_free(output)
        try:
            write_whole(output, content)
        except OSError as fault:
            raise Fault(f"{output} cannot be written: {fault.strerror}") from fault
        return probabilities


def run_of(trainer: LightningTrainer) -> Run | None:
    """The run that a trainer writes to; None for Lightning's own Trainer, or if nothing is kept."""
    return getattr(trainer, "run", None)


def _table(
    source: Mapping[str, Sequence[Any]], predicted: Sequence[int], probabilities: torch.Tensor, names: Sequence[str]
) -> bytes:
    """The lines of ``predictions.csv``; ``source`` has the first columns by name."""
    columns = dict(source)
    if names and "label" in source:
        columns["label_name"] = [names[label] for label in source["label"]]
    columns["predicted"] = predicted
    if names:
        columns["predicted_name"] = [names[label] for label in predicted]
    columns |= {f"p{c}": [f"{p:.6g}" for p in column] for c, column in enumerate(probabilities.T.tolist())}
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()


def _check_that_it_is_free(output: Path) -> None:
    try:
        exists = output.exists()
    except OSError as fault:
        raise UserError(f"{output} cannot be written: {fault.strerror}") from fault
    if exists:
        raise UserError(f"{output} exists and is left as it is; name another file with --output")
