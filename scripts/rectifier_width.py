r"""Rectifiers in place of products: how wide must a sum of products be to imitate a recurrent rectifier network?

    python scripts/rectifier_width.py [--dataset mnist] [--rank 16] [--epochs 4] [--images 256]
        [--output results/rectifier_width] [--quick]

A tensor train and the generalized one with xi(x, y) = max(x, y, 0) [Khrulkov, Hrinchuk, Oseledets, arXiv 1901.10801]:

    products      h_k[b] = sum_{i,a} G_k[i, a, b] f_i(x_k) h_{k-1}[a]
    rectifiers    h_k[b] = sum_{i,a} G_k[i, a, b] max(f_i(x_k), h_{k-1}[a], 0)

The second is not linear in f(x_k). It has no weight tensor, so no CP-rank, no matricization and no certificate: it is
no ``ScoreTensor``. It has grid tensors, the scores at chosen templates. Mixed images are such templates, and the bound
of rank/width/curve.py asks nothing of the network that is imitated: no sum of R products of any functions of the odd
and of the even patches comes nearer. A sum of R rectified units is another class, which no rank bounds.

Both are trained here by the same loop, for equal and for different cores: Adam, batch 64, learning rate 2e-3. Every
network is saved in OUTPUT.json, and a stopped script goes on behind the last one. Writes OUTPUT.json, .md, .png.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

import ttlightning
from ttlightning import EqualCoreTensorTrain, TensorTrain
from ttlightning.data.datasets import default_root, read_dataset
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.randomness import keyed_generator, keyed_global_generator
from ttlightning.rank.width.curve import width_curve
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import read_json, write_json
from ttlightning.system.output import run_script

MODE_SIZE, BATCH, RATE, SEED = 17, 64, 2e-3, 0
ERRORS = (0.5, 0.3, 0.1, 0.03, 0.01)
NETWORKS = {
    f"{kind}, {cores} cores": (kind, cores) for kind in ("products", "rectifiers") for cores in ("equal", "different")
}


class RectifierTrain(nn.Module):
    r"""The generalized tensor train of xi(x, y) = max(x, y, 0), h_0 = 0, and L[a, y] from the last state to the scores.

    Its cores start at the mean over the features, h_k[a] = mean_i max(f_i, h_{k-1}[a], 0), plus noise.

    Shapes:
        features (batch, sites, mode_size) -> scores (batch, classes).
    """

    def __init__(self, sites: int, mode_size: int, classes: int, rank: int, equal: bool) -> None:
        super().__init__()
        self.sites = sites
        noise = torch.randn(1 if equal else sites, mode_size, rank, rank) * (0.5 / (mode_size * rank) ** 0.5)
        self.cores = nn.Parameter(noise + torch.eye(rank) / mode_size)
        self.last = nn.Parameter(torch.randn(rank, classes) / rank**0.5)

    def forward(self, features: Float[Tensor, "batch sites modes"]) -> Float[Tensor, "batch classes"]:
        state = features.new_zeros(len(features), self.last.shape[0])
        for site in range(self.sites):
            joined = torch.maximum(features[:, site, :, None], state[:, None, :]).relu()
            state = joined.flatten(1) @ self.cores[site % len(self.cores)].flatten(0, 1)
        return state @ self.last


class Recurrent(nn.Module):
    """A feature map, and either head on its features."""

    def __init__(self, kind: str, cores: str, patches: Tensor, classes: int, rank: int) -> None:
        super().__init__()
        _, sites, patch_dim = patches.shape
        with keyed_global_generator(SEED, "initialization", kind, cores):
            self.features = PatchFeatureMap(patch_dim, MODE_SIZE, "gelu")
            if kind == "rectifiers":
                self.head: nn.Module = RectifierTrain(sites, MODE_SIZE, classes, rank, cores == "equal")
            else:
                format = EqualCoreTensorTrain if cores == "equal" else TensorTrain
                self.head = format(sites, MODE_SIZE, classes, rank=rank, gain=10.0)

    def forward(self, patches: Float[Tensor, "batch sites patch_dim"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.features(patches - 0.13))


def train_epoch(network: Recurrent, optimizer: torch.optim.Adam, patches: Tensor, labels: Tensor, epoch: int) -> None:
    order = torch.randperm(len(labels), generator=keyed_generator(SEED, "order", epoch))
    for batch in order.split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(network(scaled(patches[batch])), labels[batch]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def scores_on_mixed(network: nn.Module, patches: Float[Tensor, "images sites patch_dim"]) -> Tensor:
    """Scores of the odd patches of image i with the even patches of image j, float64, (images, images, classes)."""
    rows = []
    for image in patches:
        mixed = patches.clone()
        mixed[:, 0::2] = image[0::2]
        rows.append(network(mixed))
    return torch.stack(rows)


def measure(network: Recurrent, patches: Tensor, labels: Tensor, images: int) -> dict[str, Any]:
    """The bound on K x K mixed test images, all classes together without their mean, and the accuracy."""
    with torch.no_grad():
        accuracy = float((network(scaled(patches)).argmax(1) == labels).double().mean())
    scores = scores_on_mixed(network.double(), scaled(patches[:images], torch.float64))
    network.float()  # the weights were float32 numbers: they come back unchanged
    curve = width_curve((scores - scores.mean(2, keepdim=True)).flatten(1))
    return {
        "width": {str(eps): curve.width(eps) for eps in ERRORS},
        "bound": curve.errors.tolist(),
        "test_acc": accuracy,
        "weights_sha256": weights_sha256(network.state_dict()),
    }


def table(found: dict[str, Any]) -> str:
    """A line for every network and epoch."""
    lines = ["| network | epochs | parameters | test % | 50 % | 30 % | 10 % | 3 % | 1 % | weights |", "|---" * 10 + "|"]
    for name, study in found["networks"].items():
        for epoch, point in enumerate(study["epochs"]):
            widths = " | ".join(map(str, point["width"].values()))
            cells = (
                f"{study['parameters']:,} | {100 * point['test_acc']:.2f} | {widths} | {point['weights_sha256'][:12]}"
            )
            lines.append(f"| {name} | {epoch} | {cells} |")
    size, data = found["settings"]["images"], found["data_sha256"]
    return (
        f"Units of a sum of products that stays within an error of the scores on {size} x {size} mixed test images, at "
        f"least.\n\n" + "\n".join(lines) + f"\n\nData: {found['settings']['dataset']}, SHA-256 {data}\n"
    )


def draw(found: dict[str, Any], path: Path) -> None:
    figure, panel = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for name, study in found["networks"].items():
        kind, cores = NETWORKS[name]
        style = {"color": f"C{int(kind == 'rectifiers')}", "linestyle": "-" if cores == "equal" else "--"}
        for epoch, width in ((0, 0.8), (-1, 1.8)):
            bound = [error for error in study["epochs"][epoch]["bound"][1:] if error > 0]
            label = name if epoch else None
            panel.plot(range(1, 1 + len(bound)), bound, lw=width, label=label, **style)
    panel.set(xscale="log", yscale="log", ylim=(3e-3, 1.3), xlabel="products R", ylabel="relative error, at least")
    panel.set_title("trained (thick) and untrained (thin)", fontsize=10, loc="left")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=256, help="K")
    parser.add_argument("--output", type=Path, default=Path("results/rectifier_width"))
    parser.add_argument("--quick", action="store_true", help="one epoch on 4,000 digits, rank 4")
    options = parser.parse_args()
    if options.quick:
        options.dataset, options.rank, options.epochs, options.images = "mnist5k", 4, 1, 48
    store = options.output.with_suffix(".json")
    settings = {name: getattr(options, name) for name in ("dataset", "rank", "epochs", "images")}
    read = read_dataset(options.dataset, default_root())
    fresh = {"settings": settings, "data_sha256": read.sha256(), "networks": {}}
    found = read_json(store) if store.exists() else fresh
    if {**found, "networks": {}} != fresh:
        raise ttlightning.UserError(f"{store} has other settings or data, {found['settings']}: name another --output")
    train, test = (Patching(7)(split.images) for split in (read.train, read.test))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name, (kind, cores) in NETWORKS.items():
        if name in found["networks"]:
            continue
        network = Recurrent(kind, cores, train, int(read.train.labels.max()) + 1, options.rank)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        points = [measure(network, test, read.test.labels, options.images)]
        for epoch in range(options.epochs):
            train_epoch(network, optimizer, train, read.train.labels, epoch)
            points.append(measure(network, test, read.test.labels, options.images))
        parameters = sum(p.numel() for p in network.parameters())
        found["networks"][name] = {"parameters": parameters, "epochs": points}
        write_json(store, found)
    options.output.with_suffix(".md").write_text(table(found))
    draw(found, options.output.with_suffix(".png"))
    print(table(found), end="")


if __name__ == "__main__":
    run_script(main)
