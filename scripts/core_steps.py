r"""Which steps train equal cores best? Muon's, those of a natural gradient on the chain, SOAP's, or those of Adam.

A metric of a chain measures a change of its cores by the change of its scores on images with independent patches
(docs/width.md). With M = E[f f^T], the second moments of the features, and the states before and after a site,

    P_1 = F^T M F,   P_{k+1} = sum_ij M_ij G[i]^T P_k G[j],   Q_d = sum_ij,y M_ij L_y[i] L_y[j]^T,
    Q_k = sum_ij M_ij G[i] Q_{k+1} G[j]^T,                    E|change|^2 = sum_ij M_ij tr(P dG[i] Q dG[j]^T).

The steepest step in this metric, a natural gradient whose covariances follow from the weights, is

    dG[i] = sum_j (M^-1)_ij P^-1 N[j] Q^-1,

N the gradient with Nesterov's momentum. With equal cores, P and Q are means over the sites, each divided by its trace.
"orthogonalized" takes the step of Muon in the coordinates in which the metric is the identity:

    dG = M^-1/2 P^-1/2 polar(P^-1/2 (M^-1/2 N) Q^-1/2) Q^-1/2.

At each site it commutes with all changes of gauge, up to the damping, a multiple of the mean eigenvalue that is added
to M, P and Q; the mean over the sites keeps this for orthogonal ones. Steps have the norm of those of CoreMuon.
Matrices of the features and vectors take its steps.

SOAP is Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al., arXiv 2409.11321), from the extra
`bench`. "features x 3" is CoreMuon with a group for the features at three times the rate of the cores.

    python scripts/core_steps.py [--dataset fashion_mnist] [--root FOLDER] [--epochs 3] [--seeds 1]
        [--ways CoreMuon "natural, 0.1" ...] [--output results/core_steps] [--quick]

configs/best/any.yaml, with plain labels and augmented images in all epochs, in a plain loop of torch. The table has
accuracies on the validation split and in the last epoch of training. Rows that OUTPUT.json has are not measured again.
Writes OUTPUT.json and .md. --quick: a small chain on 4,000 digits, one epoch.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from ttlightning import Classifier, EqualCoreTensorTrain, PatchDataModule, PatchFeatureMap
from ttlightning.data.augmentation import Augmentation
from ttlightning.data.datasets import default_root
from ttlightning.errors import UserError
from ttlightning.optim.core_muon import CoreMuon, polar
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import write_json, write_whole
from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

REFRESH = 20
"""Steps between two computations of the metric."""
RATE, DECAY = 3e-3, 0.01
KEYS = ("dataset", "way", "seed", "epochs")


class ChainSteps(CoreMuon):
    """``CoreMuon`` whose steps of the cores are in the metric of the chain: the formulas on top."""

    def __init__(self, chain: EqualCoreTensorTrain, parameters: Any, kind: str, damping: float) -> None:
        super().__init__(parameters, lr=RATE, weight_decay=DECAY)
        self.chain, self.kind, self.damping = chain, kind, damping
        self.moments = torch.eye(chain.mode_size)
        self.count = 0

    def see(self, features: Tensor) -> None:
        """Take up the features of a batch; compute the metric anew now and then."""
        flat = features.detach().flatten(0, 1)
        self.moments.lerp_(flat.T @ flat / len(flat), 0.1)
        if self.count % REFRESH == 0:
            power = -1.0 if self.kind == "natural" else -0.5
            before, after = environments(self.chain, self.moments)
            shared = torch.stack(before[:-1]).mean(0), torch.stack(after[1:]).mean(0)
            metrics = (self.moments, *shared, after[0], before[-1])
            self.inverses = [self._power(matrix, power) for matrix in metrics]
        self.count += 1

    def _power(self, matrix: Tensor, power: float) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix.double())
        damped = values.clamp(min=0) / values.mean() + self.damping
        return ((vectors * damped**power) @ vectors.T).float()

    @torch.no_grad()
    def _matrix_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        modes, left, right, after_first, before_last = self.inverses
        chain, one = self.chain, None
        pairs = {chain.first: (one, after_first), chain.interior: (left, right), chain.last: (before_last, one)}
        if parameter not in pairs:
            super()._matrix_step(parameter, group)
            return
        state, lr, (before, after) = self.state[parameter], group["lr"], pairs[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
        direction = self._in_metric(parameter.grad + group["momentum"] * buffer, modes, before, after)
        if self.kind == "orthogonalized":
            direction = self._in_metric(polar(direction), modes, before, after)
        direction *= 0.2 * parameter.numel() ** 0.5 / (torch.linalg.vector_norm(direction) + 1e-30)
        parameter.mul_(1 - lr * group["weight_decay"]).sub_(lr * direction)

    def _in_metric(self, core: Tensor, modes: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        """The core (..., modes, left, right), or (modes, right) of the first site, times the three matrices."""
        if core.ndim == 2:
            return modes @ core @ after
        core = torch.einsum("ij,...jab->...iab", modes, core)
        core = core if before is None else before @ core
        return core if after is None else core @ after


def environments(chain: EqualCoreTensorTrain, moments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """P_1, ..., P_{d-1} and Q_2, ..., Q_d, each divided by its trace."""
    root = torch.linalg.cholesky(moments + 1e-6 * moments.diagonal().mean() * torch.eye(len(moments)))
    first, last = root.T @ chain.first, torch.einsum("ij,iay->jay", root, chain.last)
    core = torch.einsum("ij,iab->jab", root, chain.interior[0])

    def along(start: Tensor, slices: Tensor) -> list[Tensor]:
        found = [start / start.trace()]
        for _ in range(chain.sites - 2):
            following = (slices.mT @ found[-1] @ slices).sum(0)
            found.append(following / following.trace())
        return found

    before = along(first.T @ first, core)
    after = along(torch.einsum("iay,iby->ab", last, last), core.mT)
    return before, after[::-1]


def muon(features: float) -> Callable[[Classifier], Optimizer]:
    """CoreMuon with a multiple of the rate for the features."""

    def make(model: Classifier) -> Optimizer:
        groups = [{"params": model.features.parameters(), "lr": features * RATE}, {"params": model.format.parameters()}]
        return CoreMuon(groups, lr=RATE, weight_decay=DECAY)

    return make


def in_the_metric(kind: str, damping: float) -> Callable[[Classifier], Optimizer]:
    return lambda model: ChainSteps(model.format, model.parameters(), kind, damping)


def soap(rate: float) -> Callable[[Classifier], Optimizer]:
    def make(model: Classifier) -> Optimizer:
        try:
            from pytorch_optimizer import SOAP
        except ModuleNotFoundError as absent:
            raise UserError("SOAP is of another package: pip install pytorch_optimizer") from absent
        return SOAP(model.parameters(), lr=rate, weight_decay=DECAY)

    return make


WAYS: dict[str, Callable[[Classifier], Optimizer]] = (
    {"CoreMuon": muon(1.0), "features x 3": muon(3.0), "features / 3": muon(1 / 3)}
    | {f"{kind}, {d:g}": in_the_metric(kind, d) for kind in ("natural", "orthogonalized") for d in (1.0, 0.1, 0.01)}
    | {f"SOAP, {rate:g}": soap(rate) for rate in (1e-3, 3e-3, 6e-3, 1e-2)}
    | {"AdamW, 0.004": lambda model: AdamW(model.parameters(), lr=4e-3, weight_decay=DECAY, fused=True)}
)
"""Name: the optimizer of a network. Numbers are the damping, or the rate where it is not that of the recipe."""


def trained(data: PatchDataModule, way: str, seed: int, epochs: int, small: bool) -> dict[str, Any]:
    """Accuracies after training by one way."""
    mode_size, hidden, rank = (9, 16, 8) if small else (49, 256, 32)
    model = Classifier(
        data.sites, data.patch_dim, data.classes,
        features=partial(PatchFeatureMap, mode_size=mode_size, activation="gelu", hidden=hidden),
        format=partial(EqualCoreTensorTrain, rank=rank, gain=10.0), pixel_mean=0.3, seed=seed,
    )  # fmt: skip
    optimizer, batches = WAYS[way](model), data.train_dataloader()
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = OneCycleLR(optimizer, rates, total_steps=epochs * len(batches))
    started = time.perf_counter()
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        right = samples = 0
        for batch in batches:
            features = model.embed(batch.patches)
            scores = model.format(features)
            optimizer.zero_grad()
            F.cross_entropy(scores, batch.labels).backward()
            if isinstance(optimizer, ChainSteps):
                optimizer.see(features)
            optimizer.step()
            schedule.step()
            right += int((scores.argmax(1) == batch.labels).sum())
            samples += len(scores)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        held_out = [(model(batch.patches).argmax(1) == batch.labels) for batch in data.val_dataloader()]
    return {
        "val": float(torch.cat(held_out).double().mean()),
        "train": right / samples,
        "seconds": seconds,
        "weights_sha256": weights_sha256(model.state_dict()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each way and number of epochs: the accuracies of its seeds in percent."""
    lines = ["| steps of the cores | epochs | validation | last epoch of training |", "|---|---|---|---|"]
    for epochs, way in sorted({(row["epochs"], row["way"]) for row in rows}, key=lambda k: (k[0], [*WAYS].index(k[1]))):
        mine = [row for row in rows if (row["epochs"], row["way"]) == (epochs, way)]
        cells = [", ".join(f"{100 * row[name]:.2f}" for row in mine) for name in ("val", "train")]
        lines.append(f"| {way} | {epochs} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--root", type=Path, default=default_root())
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/core_steps"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.dataset, options.epochs, options.seeds = "mnist5k", 1, 1
    if options.seeds < 1 or options.epochs < 1:
        raise UserError(f"--seeds is {options.seeds}, --epochs is {options.epochs}: both must be at least 1")
    torch.set_num_threads(1)
    file = options.output.with_suffix(".json")
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    known = {tuple(row[key] for key in KEYS) for row in rows}
    for seed, way in itertools.product(range(options.seeds), options.ways):
        name = options.dataset + " of a small chain" * options.quick
        key = dict(zip(KEYS, (name, way, seed, options.epochs), strict=True))
        if tuple(key.values()) in known:
            continue
        data = PatchDataModule(
            options.dataset, options.root, patch_size=8, stride=4, augmentation=Augmentation(shift=1),
            batch_size=128, validation=0.1, seed=seed,
        )  # fmt: skip
        data.prepare_data()
        data.setup("fit")
        rows.append(key | trained(data, way, seed, options.epochs, options.quick))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"machine": cpu_name(), "torch": torch.__version__, "rows": rows})
    write_whole(options.output.with_suffix(".md"), table(rows).encode())
    print(table(rows), end="")


if __name__ == "__main__":
    run_script(main)
