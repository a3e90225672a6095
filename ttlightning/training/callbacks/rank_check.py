r"""The rank check: what the trained weight tensor's ranks are, while it trains.

For every format, beside the bound proven for almost every tensor of this (n, r, d):
  * what is certain of these weights: a lower bound on the CP-rank of every class tensor, counted modulo a prime, and at
    the end the certificate of it. Of chains by the staircase (``rank/staircase.py``), of the others from K x K scores,
    which show K at most, and of a canonical polyadic network its own width at most;
  * a K x K sketch of the odd/even matricization of each class tensor, rows and columns scaled to norm 1: numerical
    rank, stable rank, entropy.
For chains also:
  * how far they are from a lower rank: singular values of the staircase's matrices T_m, in float64;
  * the TT-rank in use and the entropy at each bond.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from ttlightning.errors import UserError
from ttlightning.formats import CanonicalPolyadic, EqualCoreTensorTrain, HierarchicalTucker, ScoreTensor, TensorTrain
from ttlightning.randomness import keyed_generator
from ttlightning.rank import (
    bond_spectra,
    cp_rank_bound_a24,
    cp_rank_bound_k18,
    entropy,
    equilibrate,
    generic_odd_even_rank,
    generic_tree_rank,
    numerical_rank,
    ratio,
    shallow_parameters,
    sketch,
    stable_rank,
)
from ttlightning.rank.certificates.certificate import (
    checkpoint_certificate,
    largest_grid,
    sampled_certificate,
    write_certificate,
)
from ttlightning.rank.finite_field import PRIMES
from ttlightning.rank.limits import stated
from ttlightning.rank.staircase import pair_matrix, pairs
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import write_whole


class RankCheck(Callback):
    """Check the ranks before training, every ``every_n_epochs`` epochs and after training.

    Args:
        every_n_epochs: epochs between two checks; 0 checks at the start and at the end only.
        sketch_size: K, rows and columns of the sketch; a numerical rank above K cannot be seen. What is certified of
            trees and canonical polyadic networks takes the next power of two from K down.
        bond_tolerance: a bond's singular value counts as in use above this fraction of its largest.
        seed: key of the random features, the same at every check.

    Writes ``rank/checks.jsonl`` in the run directory, a line for each check with every class and every bond, at the end
    ``rank/certificate.json``, and logs to all loggers:
        rank/certified        certified lower bound on the CP-rank, the smallest over the classes
        rank/smallest_singular_value, rank/condition   of the T_m: the smallest, and the largest quotient
        rank/bound            generic rank for this (n, r, d) and format, equal or different cores
        rank/bound_published  [K18] for different cores, [A24] for equal ones; of chains
        rank/sketch_rank      numerical rank of the sketch, the smallest over the classes
        rank/stable_rank, rank/entropy   of the sketch, mean over the classes; entropy in nats
        rank/tt_rank_min, rank/tt_rank_max   TT-rank in use, over the bonds
        rank/bond_entropy     mean over the bonds, in nats

    A bound above 10^4000 is recorded as 10^4000, a lower bound too: longer integers cannot be read again. Of a network
    beyond the limits of certificates the record has ``not_certified``, the reason.
    """

    def __init__(
        self, every_n_epochs: int = 10, sketch_size: int = 64, bond_tolerance: float = 1e-6, seed: int = 0
    ) -> None:
        if every_n_epochs < 0:
            raise UserError(f"rank_check.every_n_epochs is {every_n_epochs}, it must be at least 0")
        if sketch_size < 1:
            raise UserError(f"rank_check.sketch_size is {sketch_size}, it must be at least 1")
        self.every_n_epochs, self.sketch_size = every_n_epochs, sketch_size
        self.bond_tolerance, self.seed = bond_tolerance, seed
        self.directory: Path | None = None
        self.latest: dict[str, Any] = {}
        self._certificate: dict[str, Any] | None = None
        self._lines = 0
        self._weights = ""
        """weights_sha256 of the weights that were checked last"""
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # certified it would take a third of the time of all checks, for raw weights
            self._check(trainer, pl_module, certify=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._check(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        weights = weights_sha256(pl_module.state_dict())
        if self._weights != weights:  # others than those of the last check: by later steps, or by a callback
            self._check(trainer, pl_module)
        if self._certificate is None:  # a run that went on from its end has none at hand
            self._certify(pl_module.format)
        if self.directory is None:
            return
        (self.directory / "certificate.json").unlink(missing_ok=True)  # of a process that was stopped right after
        if self._certificate is None:
            return
        certificate = self._certificate | {
            "weights_sha256": weights,
            "checkpoint": "../checkpoints/last.ckpt",
        }
        write_certificate(self.directory / "certificate.json", certificate)
        self.latest |= {"certificate": "rank/certificate.json", "statement": certificate["statement"]}

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on: the latest check as text, because its integers outgrow what a checkpoint may hold."""
        latest = json.dumps(self.latest)
        return {"lines": self._lines, "seconds": self.seconds, "latest": latest, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.latest = float(state_dict["seconds"]), dict(json.loads(state_dict["latest"]))
        self._weights = state_dict.get("weights", "")
        if rank_zero_only.rank != 0 or self.directory is None or not (self.directory / "checks.jsonl").exists():
            return
        lines = (self.directory / "checks.jsonl").read_bytes().splitlines(keepends=True)[: state_dict["lines"]]
        self._lines = len(lines)
        write_whole(self.directory / "checks.jsonl", b"".join(lines))

    def _check(self, trainer: Trainer, pl_module: LightningModule, certify: bool = True) -> None:
        if not trainer.is_global_zero:
            return
        started = time.perf_counter()
        format = pl_module.format
        self._weights = weights_sha256(pl_module.state_dict())
        self.latest = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.latest |= measure_ranks(format, self.sketch_size, self.bond_tolerance, self.seed)
        self._certificate = None
        if certify:
            self._certify(format)
        if isinstance(format, TensorTrain):
            self.latest |= measure_staircase(format)
        for logger in trainer.loggers:
            logger.log_metrics(summarize_ranks(self.latest), step=trainer.global_step)
        if self.directory is not None:
            self.directory.mkdir(exist_ok=True)
            with (self.directory / "checks.jsonl").open("a") as file:
                file.write(json.dumps(self.latest) + "\n")
            self._lines += 1
        self.seconds += time.perf_counter() - started

    def _certify(self, format: ScoreTensor) -> None:
        """The certificate of the present weights and what the record says of it, or why there is none."""
        try:
            self._certificate = certify_now(format, self.sketch_size)
        except UserError as why:
            self.latest["not_certified"] = str(why)
        if self._certificate is not None:
            self.latest |= describe_certificate(self._certificate, format)


def certify_now(format: ScoreTensor, size: int) -> dict[str, Any] | None:
    """The certificate of the present weights, from one prime; None for weights of NaN, and for formats not our own.

    Of a chain by the staircase, of another format from a sample of ``size`` x ``size`` scores, or of as many as are
    powers of two and as its modes tell apart.

    Raises:
        UserError: where the network is beyond the table of limits, or its weights are of a type without certificates.
    """
    state = {name: p.detach() for name, p in format.named_parameters()}
    if not all(p.isfinite().all() for p in state.values()):
        return None
    if isinstance(format, TensorTrain):
        return checkpoint_certificate(state, format.sites, "", PRIMES[:1])
    if isinstance(format, CanonicalPolyadic | HierarchicalTucker):
        return sampled_certificate(state, format.sites, "", largest_grid(size, format.mode_size, format.sites))
    return None


def describe_certificate(certificate: dict[str, Any], format: ScoreTensor) -> dict[str, Any]:
    """What the record of a check says of it, per class, and what bounds it from above or sets it in proportion."""
    certified = certificate["cp_rank_at_least"]
    if isinstance(format, TensorTrain):
        units = shallow_parameters(min(certified), format.mode_size, format.sites)
        return {"certified": certified, "shallow_over_chain": stated(units // format.parameter_count())}
    most = {"cp_rank_at_most": format.rank} if isinstance(format, CanonicalPolyadic) else {}
    return {"certified": certified, "certified_size": certificate["size"]} | most


def measure_staircase(format: TensorTrain) -> dict[str, Any]:
    """How far the weights are from a lower rank: smallest singular value and condition of every T_m, in float64.

    Of n > r^2 slices only r^2 are independent, so that the smallest is number r min(n, r^2).
    """
    if not all(p.isfinite().all() for p in format.parameters()):
        return {}
    distinct = format.interior.detach().double().cpu().numpy()
    cores = [distinct[0 if len(distinct) == 1 else k] for k in range(format.sites - 2)]
    steps = pairs(format.sites)[: 1 if len(distinct) == 1 else None]
    if not steps:
        return {}
    matrices = np.stack([pair_matrix(cores[even - 2], cores[odd - 2]) for even, odd in steps])
    values = np.linalg.svd(matrices, compute_uv=False)
    smallest = values[:, format.rank * min(format.mode_size, format.rank**2) - 1]
    limits = np.finfo(float)
    with np.errstate(over="ignore"):  # of a singular T the largest float, which JSON can hold
        condition = np.minimum(values[:, 0] / np.maximum(smallest, limits.tiny), limits.max)
    return {"smallest_singular_value": smallest.tolist(), "condition": condition.tolist()}


def measure_ranks(format: ScoreTensor, sketch_size: int, bond_tolerance: float, seed: int) -> dict[str, Any]:
    """Everything that one check finds, per class and per bond, as plain numbers."""
    n, r, d = format.mode_size, format.rank, format.sites
    values = torch.linalg.svdvals(equilibrate(sketch(format, sketch_size, keyed_generator(seed, "rank check"))))
    resolution = sketch_size * torch.finfo(values.dtype).eps
    found: dict[str, Any] = {
        "mode_size": n,
        "rank": r,
        "sites": d,
        "sketch_size": sketch_size,
        "sketch_rank": numerical_rank(values, resolution).tolist(),
        "stable_rank": stable_rank(values).tolist(),
        "entropy": entropy(values).tolist(),
    }
    if isinstance(format, CanonicalPolyadic):
        found["bound"] = min(r, n ** (d // 2))
    if isinstance(format, HierarchicalTucker):
        found["bound"] = stated(generic_tree_rank(n, r, d))
    if isinstance(format, TensorTrain):
        equal = isinstance(format, EqualCoreTensorTrain)
        spectra = bond_spectra(format.cores())
        found |= {
            "bound": stated(generic_odd_even_rank(n, r, d)),
            "bound_published": stated((cp_rank_bound_a24 if equal else cp_rank_bound_k18)(n, r, d)),
            "tt_rank": [int(numerical_rank(s, bond_tolerance)) for s in spectra],
            "bond_entropy": [float(entropy(s)) for s in spectra],
        }
    return found


def summarize_ranks(found: dict[str, Any]) -> dict[str, float]:
    """The few numbers of a check that go to the loggers."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    summary = {
        "rank/sketch_rank": min(found["sketch_rank"]),
        "rank/stable_rank": mean(found["stable_rank"]),
        "rank/entropy": mean(found["entropy"]),
    }
    if "certified" in found:
        summary["rank/certified"] = min(found["certified"])
    if "condition" in found:
        summary["rank/smallest_singular_value"] = min(found["smallest_singular_value"])
        summary["rank/condition"] = max(found["condition"])
    if "bound" in found:
        summary["rank/bound"] = found["bound"]
    if "tt_rank" in found:
        summary |= {
            "rank/bound_published": found["bound_published"],
            "rank/tt_rank_min": min(found["tt_rank"]),
            "rank/tt_rank_max": max(found["tt_rank"]),
            "rank/bond_entropy": mean(found["bond_entropy"]),
        }
    return {key: ratio(value, 1) if isinstance(value, int) else value for key, value in summary.items()}
