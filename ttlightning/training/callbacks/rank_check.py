"""The callback that checks ranks during training: it schedules, writes and logs what ``rank/measures`` computes."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ttlightning.errors import UserError
from ttlightning.formats import ScoreTensor
from ttlightning.networks.network import Network
from ttlightning.rank.certificates import Certificate
from ttlightning.rank.certificates.files import write_certificate
from ttlightning.rank.measures import (
    certify,
    describe_certificate,
    measure_ranks,
    measure_staircase,
    measure_width,
    summarize_ranks,
)
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import write_whole
from ttlightning.training.datamodule import PatchDataModule
from ttlightning.training.trainer import run_of


class RankCheck(Callback):
    """Check the ranks before training, every ``every_n_epochs`` epochs and after training.

    All of it speaks of the tensor with ``sites`` modes. For sequences of different lengths this is the longest one.
    A network without a weight tensor has no ranks: nothing is checked, logged or written.

    Args:
        every_n_epochs: epochs between two checks; 0: only at the start and at the end.
        sketch_size: K, rows and columns of the sketch; it shows no numerical rank above K. A certificate from scores
            has the next power of two from K down.
        bond_tolerance: a singular value of a bond is in use if it exceeds this fraction of the bond's largest.
        seed: key of the random features, the same at every check.
        mixed_images: K, validation images (training images if none are held out) whose odd and even patches are mixed
            to K x K images; 0: none. A width above K is not seen.

    Raises:
        UserError: if ``every_n_epochs``, ``sketch_size`` or ``mixed_images`` is out of range.

    Writes ``rank/checks.jsonl`` in the run directory, one line for each check with every class and every bond, and
    ``rank/certificate.json`` at the end. Logs to all loggers:
        rank/certified        certified lower bound on the CP-rank, the smallest over the classes
        rank/smallest_singular_value, rank/condition   of the T_m: the smallest value, the largest condition
        rank/bound            generic rank for this (n, r, d) and format
        rank/bound_published  of tensor trains: [K18] for different cores, [A24] for equal cores
        rank/sketch_rank      numerical rank of the sketch, the smallest over the classes
        rank/stable_rank, rank/entropy   of the sketch, mean over the classes; entropy in nats
        rank/tt_rank_min, rank/tt_rank_max   TT-rank in use, over the bonds
        rank/bond_entropy     mean over the bonds, in nats
        rank/width_10_percent, rank/width_1_percent   units that a shallow network needs to stay within this error of
            the scores on mixed images, at least; rank/width_images is K

    A bound above 10^4000 is recorded as 10^4000, which is a lower bound too: Python does not read longer integers. If
    there is no certificate, the record has the reason under ``not_certified``.
    """

    def __init__(
        self,
        every_n_epochs: int = 10,
        sketch_size: int = 64,
        bond_tolerance: float = 1e-6,
        seed: int = 0,
        mixed_images: int = 256,
    ) -> None:
        if every_n_epochs < 0:
            raise UserError(f"rank_check.every_n_epochs is {every_n_epochs}, it must be at least 0")
        if sketch_size < 1:
            raise UserError(f"rank_check.sketch_size is {sketch_size}, it must be at least 1")
        if mixed_images < 0:
            raise UserError(f"rank_check.mixed_images is {mixed_images}, it must be at least 0")
        self.mixed_images = mixed_images
        self.every_n_epochs, self.sketch_size = every_n_epochs, sketch_size
        self.bond_tolerance, self.seed = bond_tolerance, seed
        self.latest: dict[str, Any] = {}
        self._certificate: Certificate | None = None
        self._lines = 0
        self._weights = ""
        """weights_sha256 at the last check"""
        self.seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the lines of ``checks.jsonl`` that the checkpoint knows of; a new run has none."""
        run = run_of(trainer)
        if run is None or not trainer.is_global_zero or not run.checks_file.exists():
            self._lines = 0
            return
        lines = run.checks_file.read_bytes().splitlines(keepends=True)[: self._lines]
        self._lines = len(lines)
        write_whole(run.checks_file, b"".join(lines))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # a certificate of untrained weights would take a third of the time of all checks
            self._check(trainer, pl_module, epochs=0, with_certificate=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._check(trainer, pl_module, trainer.current_epoch + 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tensor = pl_module.format.weight_tensor()
        if not trainer.is_global_zero or tensor is None:
            return
        weights = weights_sha256(pl_module.state_dict())
        if self._weights != weights:  # changed since the last check, by later steps or by a callback
            self._check(trainer, pl_module, trainer.current_epoch)
        if self._certificate is None:  # the run was resumed after its last step
            self._certify(tensor)
        run = run_of(trainer)
        if run is None:
            return
        run.certificate_file.unlink(missing_ok=True)  # a stopped process may have left one
        if self._certificate is None:
            return
        checkpoint = Path(os.path.relpath(run.checkpoint, run.certificate_file.parent)).as_posix()
        certificate = self._certificate | {"weights_sha256": weights, "checkpoint": checkpoint}
        write_certificate(run.certificate_file, certificate)
        self.latest |= {
            "certificate": run.certificate_file.relative_to(run.path).as_posix(),
            "statement": certificate["statement"],
        }

    def state_dict(self) -> dict[str, Any]:
        """The latest check is text, because a checkpoint cannot hold its long integers."""
        latest = json.dumps(self.latest)
        return {"lines": self._lines, "seconds": self.seconds, "latest": latest, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.latest = float(state_dict["seconds"]), dict(json.loads(state_dict["latest"]))
        self._weights = state_dict.get("weights", "")
        self._lines = state_dict["lines"]

    def _check(self, trainer: Trainer, pl_module: LightningModule, epochs: int, with_certificate: bool = True) -> None:
        """Measure, log and write after ``epochs`` complete epochs; the row has the number of the last one, from -1."""
        format = pl_module.format.weight_tensor()
        if not trainer.is_global_zero or format is None:
            return
        started = time.perf_counter()
        self._weights = weights_sha256(pl_module.state_dict())
        self.latest = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.latest |= measure_ranks(format, self.sketch_size, self.bond_tolerance, self.seed)
        self._certificate = None
        if with_certificate:
            self._certify(format)
        self.latest |= measure_staircase(format) | self._width(format, trainer, pl_module)
        values = summarize_ranks(self.latest) | {"epoch": epochs - 1}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        if (run := run_of(trainer)) is not None:
            run.checks_file.parent.mkdir(exist_ok=True)
            with run.checks_file.open("a") as file:
                file.write(json.dumps(self.latest) + "\n")
            self._lines += 1
        self.seconds += time.perf_counter() - started

    def _width(self, format: ScoreTensor, trainer: Trainer, pl_module: LightningModule) -> dict[str, int]:
        """Nothing for data or networks of somebody else's, which have no patches or no feature map.

        Nothing for sequences of different lengths: the even sites of one do not fit the odd sites of another.
        """
        if not (
            self.mixed_images and isinstance(trainer.datamodule, PatchDataModule) and isinstance(pl_module, Network)
        ):
            return {}
        if trainer.datamodule.has_lengths:
            return {}
        patches = trainer.datamodule.some_patches(self.mixed_images).to(pl_module.device)
        training = [module for module in pl_module.features.modules() if module.training]
        pl_module.features.eval()
        with torch.no_grad():
            features = pl_module.embed(patches)
        for module in training:  # a part that the user has frozen stays so
            module.training = True
        return measure_width(format, features)

    def _certify(self, format: ScoreTensor) -> None:
        """Make the certificate of the present weights; record its bounds, or the reason why there is none."""
        try:
            self._certificate = certify(format, self.sketch_size)
        except UserError as why:
            self.latest["not_certified"] = str(why)
        if self._certificate is not None:
            self.latest |= describe_certificate(self._certificate, format)
