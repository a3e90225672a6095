"""Figures of a finished run: confusion matrix, mistakes and singular values, as files and as objects of W&B.

<run>/figures/  confusion.csv  confusion.png  mistakes.csv  mistakes.png  spectrum.csv  spectrum.png
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import wandb
from jaxtyping import Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.distributed import gather_all_tensors
from torchvision.transforms.functional import to_pil_image
from wandb.plot import CustomChart

from ttlightning.rank.measures import measure_spectra
from ttlightning.runs.files import write_whole
from ttlightning.training.figures import draw_confusion, draw_mistakes, draw_spectrum, png, shorten
from ttlightning.training.loggers import Record
from ttlightning.training.trainer import run_of

SHOWN: Final = 32
"""Mistakes in the figure and the table."""

LONGEST_NAME: Final = 7
"""Characters of a class's name below a picture; the tables have the full name."""


class Verdicts(NamedTuple):
    """Label and scores of each sample, in the order of the test set."""

    index: Int[Tensor, " samples"]
    """position in the test set"""
    labels: Int[Tensor, " samples"]
    scores: Float[Tensor, "samples classes"]
    """up to one additive constant for each sample"""

    def surest_mistakes(self) -> Int[Tensor, " mistakes"]:
        """Rows of all mistakes, by descending probability of the predicted class; ties keep their order."""
        wrong = (self.scores.argmax(-1) != self.labels).nonzero().flatten()
        sure = self.scores[wrong].double().softmax(-1).amax(-1)
        return wrong[sure.argsort(descending=True, stable=True)]


class RunFigures(Callback):
    """Draws figures at the end of a run, from its final pass over the test set.

    W&B, if it is not disabled, gets
        test/confusion        W&B's chart of the confusion matrix
        test/mistakes         the ``SHOWN`` surest mistakes as pictures, each with label and prediction below
        test/mistakes_table   their positions in the test set, labels, predictions, probabilities
        rank/spectrum         singular values of each bond of a chain, of each class's sketch for other formats;
                              without a weight tensor neither this nor its table nor its files
        rank/spectrum_table   the same as numbers

    W&B makes tables into artifacts by default, and tables with pictures always. Here no table becomes one: an
    artifact's files lie in the home folder and are recorded by their full path. The run directory could not be moved
    to another machine before ``wandb sync``, and it would name its maker.

    Args:
        sketch_size: K, rows and columns of the sketch whose singular values are drawn for formats without bonds.
        seed: key of its random features. With the values of ``RankCheck`` it is the same sketch.
    """

    def __init__(self, sketch_size: int = 64, seed: int = 0) -> None:
        self.sketch_size, self.seed = sketch_size, seed
        self._seen: list[Verdicts] = []

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_of(trainer)
        tensor = pl_module.format.weight_tensor()
        if run is None or tensor is None or not trainer.is_global_zero:
            return
        of, spectra = measure_spectra(tensor, self.sketch_size, self.seed)
        columns = (of, "number", "singular_value")
        rows = [(at, k, s) for at, values in spectra.items() for k, s in enumerate(values.tolist(), start=1)]
        _write(run.figures / "spectrum.csv", _table(columns, rows))
        _write(run.figures / "spectrum.png", png(draw_spectrum(spectra, of)))
        if (record := _record(trainer)) is not None:
            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            picture = wandb.Image(str(run.figures / "spectrum.png"))
            _send(record, trainer, {"rank/spectrum": picture, "rank/spectrum_table": table})

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        start, end = trainer.test_dataloaders.cuts[batch_idx]
        self._seen.append(Verdicts(torch.arange(start, end, device=outputs.device), batch.labels, outputs))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_of(trainer)
        if run is None:
            return
        verdicts = gather(self._seen, pl_module.format.classes, trainer.world_size, pl_module.device)
        self._seen = []
        if trainer.is_global_zero and len(verdicts.index):
            data, record = trainer.datamodule, _record(trainer)
            names = data.spec.names or None
            objects = show_confusion(verdicts, run.figures, record is not None, names)
            objects |= show_mistakes(verdicts, data.images.test.images, run.figures, record is not None, names)
            _send(record, trainer, objects)


def show_confusion(
    verdicts: Verdicts, folder: Path, for_wandb: bool, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write the confusion matrix, with the classes' names if there are any; return W&B's chart of it."""
    classes, predicted = verdicts.scores.shape[1], verdicts.scores.argmax(-1)
    numbers = [str(number) for number in range(classes)]
    counts = multiclass_confusion_matrix(predicted, verdicts.labels, classes)
    columns = ("label", *(["label_name"] if names else []), *numbers)
    rows = [(label, *([names[label]] if names else []), *row) for label, row in enumerate(counts.tolist())]
    _write(folder / "confusion.csv", _table(columns, rows))
    _write(folder / "confusion.png", png(draw_confusion(counts, names)))
    if not for_wandb:
        return {}
    chart = wandb.plot.confusion_matrix(
        y_true=verdicts.labels.tolist(), preds=predicted.tolist(), class_names=list(names or numbers), title="Test set"
    )
    return {"test/confusion": chart}


def show_mistakes(
    verdicts: Verdicts, images: Tensor, folder: Path, for_wandb: bool, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write the surest mistakes as a table, and as pictures if the data are images (uint8); return both for W&B."""
    mistakes = verdicts.surest_mistakes()
    shown = mistakes[:SHOWN]
    kinds = ["label", "label_name", "predicted", "predicted_name"] if names else ["label", "predicted"]
    columns = ["index", *kinds, "probability", *(f"p{k}" for k in range(verdicts.scores.shape[1]))]
    rows, captions, below = [], [], []
    index, labels, scores = (values[shown] for values in verdicts)
    values = index, labels, scores.argmax(-1), scores.double().softmax(-1)
    for sample, label, predicted, probabilities in zip(*(value.tolist() for value in values), strict=True):
        surest = max(probabilities)
        right, wrong = (names[label], names[predicted]) if names else (str(label), str(predicted))
        short = [shorten(name, LONGEST_NAME) for name in (right, wrong)]
        pair = [label, right, predicted, wrong] if names else [label, predicted]
        rows.append([sample, *pair, surest, *probabilities])
        captions.append(f"{right} as {wrong}, {100 * surest:.0f}%")
        below.append(f"{short[0]} as {short[1]}\n{100 * surest:.0f}%" if names else captions[-1])
    _write(folder / "mistakes.csv", _table(columns, rows))
    pictures = images[index]
    drawn = images.dtype == torch.uint8 and images.shape[2] > 1 and len(rows) > 0  # one row is a sequence
    if drawn:
        _write(folder / "mistakes.png", png(draw_mistakes(pictures, below, len(mistakes))))
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)
    if not for_wandb:
        return {}
    objects: dict[str, Any] = {"test/mistakes_table": wandb.Table(columns=columns, data=rows)}
    if drawn:
        pairs = zip(map(to_pil_image, pictures), captions, strict=True)
        objects["test/mistakes"] = [wandb.Image(picture, caption=caption) for picture, caption in pairs]
    return objects


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    write_whole(file, content)


def _record(trainer: Trainer) -> Record | None:
    """The trainer's W&B record; None if it has none, or W&B is disabled."""
    records = (logger for logger in trainer.loggers if isinstance(logger, Record))
    return next((record for record in records if not record.experiment.disabled), None)


def _send(record: Record | None, trainer: Trainer, objects: dict[str, Any]) -> None:
    """Log to W&B without artifacts: a table that is bound to the run becomes none."""
    if record is None:
        return
    run = record.experiment

    def send() -> None:
        for name, value in objects.items():
            if isinstance(value, CustomChart):
                value.table.bind_to_run(run, f"{name}_table", run.step)
            elif isinstance(value, wandb.Table):
                value.bind_to_run(run, name, run.step)
        run.log(objects | {"trainer/global_step": trainer.global_step})

    record.attempt(send)


def gather(parts: Sequence[Verdicts], classes: int, world: int, device: torch.device) -> Verdicts:
    """The verdicts of all devices, in the order of their shards."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    parts = parts or [Verdicts(none, none, torch.zeros(0, classes, device=device))]
    own = [torch.cat(part) for part in zip(*parts, strict=True)]
    gathered = own if world == 1 else [torch.cat(gather_all_tensors(part)) for part in own]
    return Verdicts(*(part.cpu() for part in gathered))


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue().encode()
