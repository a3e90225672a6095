"""Lightning's Trainer with the defaults of this package, and predictions that end up in a file."""

import csv
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from ttlightning.errors import UserError


class Trainer(LightningTrainer):
    """Lightning's Trainer; ``fit`` costs less where there is no GPU, and ``predict`` does more."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        # Lightning makes torch ask the driver whether there is a GPU, which every optimizer step does: where there is
        # none, that is a search for the driver's library, 0.3 ms long.
        if not torch.cuda.is_available():
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        super().fit(*args, **kwargs)

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
        """Write predicted class and class probabilities of every image to a CSV file.

        Args:
            images: a picture (PNG, JPEG), an IDX file, a folder of pictures, or a list of these; default the test set,
                and then the CSV file has the labels as well.
            output: file to write; one that exists is left alone.
            ckpt_path: checkpoint of the weights to use.
            weights_only: whether to read tensors and plain values only from the checkpoint.

        Returns:
            probabilities (samples, classes).
        """
        if self.world_size > 1:
            raise UserError(f"predict writes one file on one device, got {self.world_size}; use --trainer.devices 1")
        if output.exists():
            raise UserError(f"{output} exists and is left as it is; name another file with --output")
        if not output.parent.is_dir():
            raise UserError(f"{output.parent} is not a folder; make it first or name another with --output")
        own = None
        if images is not None:
            own = datamodule.take_images(images if isinstance(images, list) else [images])
        parts = super().predict(model, dataloaders, datamodule, True, ckpt_path, weights_only)
        probabilities, predicted = (torch.cat(part) for part in zip(*parts, strict=True))
        if own is None:
            head = ["index", "label"]
            rows = enumerate(torch.cat([batch.labels for batch in self.predict_dataloaders]).tolist())
        else:
            head, rows = ["file", "index"], iter(own.sources)
        with output.open("x", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*head, "predicted", *(f"p{c}" for c in range(probabilities.shape[1]))])
            for first, said, row in zip(rows, predicted.tolist(), probabilities.tolist(), strict=True):
                writer.writerow([*first, said, *(f"{p:.6g}" for p in row)])
        return probabilities
