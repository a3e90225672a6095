"""How wide must a shallow network be to imitate a trained one? Bounds from below, distilled networks from above.

    python scripts/width_against_error.py [--datasets mnist fashion_mnist] [--ranks 4 8 16 32] [--epochs 10]
        [--images 512] [--units 4 16 64 256] [--distil 16] [--jobs 2] [--output results/width_against_error] [--quick]

Trains eq.yaml and tt.yaml at each TT-rank on each data set. After some epochs, before training, and for the trained
features with Gaussian cores, it records: the lower bound on the error of every shallow network of R units on K x K
mixed test images, all classes together without their mean (bound A); the effective ranks of the tensor, plain and
weighted as the data weigh it (bounds B and C); test accuracy and the certified rank. A width is recorded twice: proven,
less the largest rounding error that float64 can have made, and measured, as computed. At the ranks of --distil, shallow
networks of --units units then imitate the network before and after training and the one of Gaussian cores, on mixed and
on real training images; recorded is their error on the same K x K mixed test images, and on real test images.

Every point is saved in OUTPUT.json, and a stopped script goes on behind the last one. --quick: one epoch on 4,000
digits, rank 2. Writes OUTPUT.json, .md, .png.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from imitation import Recipe, grid_scores, imitate_mixed, imitate_real, relative_error, shallow_network
from width_against_error_figure import draw, table

import ttlightning
from ttlightning import formats
from ttlightning.commands.studies import Job, make_runs, require
from ttlightning.data.datasets import default_root, read_dataset
from ttlightning.data.patches import Patching
from ttlightning.data.pixels import scaled
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.networks.network import Network
from ttlightning.randomness import keyed_global_generator
from ttlightning.rank.width.curve import width_curve
from ttlightning.rank.width.images import mixed_scores, side_by_side, without_common
from ttlightning.rank.width.tensor import effective_ranks, second_moments
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.files import read_json, write_json
from ttlightning.runs.run import Run
from ttlightning.system.output import run_script

KINDS = {"equal": "eq.yaml", "different": "tt.yaml"}
ERRORS = (0.5, 0.3, 0.1, 0.03, 0.01)
TRAINING_IMAGES = 1024
"""images whose mixtures the imitators are trained on"""
SEED = 0
ALMOST_ALL = 0.99
"""A proven bound below it at R = 0, where the error is 1, is replaced by the measured one, and marked."""


class Subject(NamedTuple):
    """A network that is measured."""

    data: str
    cores: str
    rank: int
    state: str
    """epoch 0, ..., epoch N, or Gaussian cores"""

    def __str__(self) -> str:
        return f"{self.data}, {self.cores} cores, r = {self.rank}, {self.state}"


def job(data: str, cores: str, rank: int, epochs: int) -> Job:
    """The run of one network; its checkpoints of every epoch are kept."""
    options = ("--config", KINDS[cores], f"--data.dataset={data}", f"--model.format.init_args.rank={rank}")
    options += (f"--trainer.max_epochs={epochs}", "--rank_check.every_n_epochs=1", "--figures=false")
    options += ("--checkpoint.save_top_k=-1", "--checkpoint.every_n_epochs=1", "--wandb.mode=disabled")
    return Job(f"width_{data}_{cores}_r{rank}_e{epochs}", options, SEED)


def recorded_epochs(epochs: int) -> list[int]:
    """0, 1, 2, 4, 8, ... and the last one."""
    return sorted({0, epochs, *(2**k for k in range(epochs.bit_length()) if 2**k < epochs)})


def network_of(run: Run, state: str) -> Network:
    """The network of a run in one state."""
    epoch = int(state.removeprefix("epoch ")) if state.startswith("epoch ") else None
    if epoch:
        [file] = (run.path / "checkpoints").glob(f"epoch={epoch - 1}-*.ckpt")
        return ttlightning.load(file)
    trained, model = run.network(), run.config["model"]
    chosen, n = model["format"], trained.features.mode_size
    if epoch is None:  # as wide as the trained one, every entry random
        sizes = {"rank": trained.format.rank, "initialization": "gaussian"}
        with keyed_global_generator(SEED, "Gaussian cores"):
            trained.format = type(trained.format)(trained.format.sites, n, trained.format.classes, **sizes)
        return trained.requires_grad_(False)
    with keyed_global_generator(run.config["seed_everything"], "initialization"):  # as Classifier draws them
        trained.features = PatchFeatureMap(trained.features.patch_dim, **model["features"]["init_args"])
        kind = getattr(formats, chosen["class_path"].rpartition(".")[2])
        trained.format = kind(trained.format.sites, n, trained.format.classes, **chosen["init_args"])
    return trained.requires_grad_(False)


@cache
def images_of(data: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, str]:
    """Patches and labels of the training and of the test set in an order that the seed determines, and their hash."""
    read, parts = read_dataset(data, default_root()), []
    for split in (read.train, read.test):
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(SEED))
        parts += [scaled(Patching(7)(split.images[order]), torch.float32), split.labels[order]]
    return (*parts, read.sha256())


def grid_of(network: Network, patches: torch.Tensor) -> torch.Tensor:
    """Scores of all mixtures of some images, (K, K, classes), without proven error.

    ``mixed_scores`` divides by a power of two, which the images themselves, on the diagonal, give back.
    """
    scores = mixed_scores(network.format, network.embed(patches).double(), proven=False).scores.permute(1, 2, 0)
    factor = network(patches).double().norm() / scores.diagonal().norm()
    return scores * 2.0 ** round(math.log2(factor))


def measure(network: Network, data: str, images: int) -> dict[str, Any]:
    """The bounds A, B and C of one network, and its test accuracy."""
    _, _, patches, labels, data_sha256 = images_of(data)
    features = network.embed(patches[:images]).double()
    mixed = mixed_scores(network.format, features)
    matrix, error = side_by_side(without_common(mixed))
    measured = width_curve(matrix)
    curve, proven = (measured, False) if error is None else (width_curve(matrix, error), True)
    proven_width = {str(eps): curve.width(eps) for eps in ERRORS} if proven else None
    if curve.errors[0] < ALMOST_ALL:  # the scores are so small beside their terms that float64 proves little
        curve, proven = measured, False
    moments = second_moments(network.embed(patches))
    return {
        "bound": curve.errors.tolist(),
        "proven": proven,
        "width": {str(eps): curve.width(eps) for eps in ERRORS},
        "proven_width": proven_width,
        "measured_width": {str(eps): measured.width(eps) for eps in ERRORS},
        "rounding": None if error is None else error / float(matrix.norm()),
        "effective_rank": effective_ranks(network.format),
        "effective_rank_on_data": effective_ranks(network.format, moments),
        "test_acc": float((network(patches).argmax(1) == labels).double().mean()),
        "weights_sha256": weights_sha256(network.state_dict()),
        "data_sha256": data_sha256,
    }


def distil(network: Network, data: str, images: int, units: int, recipe: Recipe) -> dict[str, Any]:
    """Errors that a shallow network of ``units`` units reaches, trained on mixed and on real images."""
    train, _, test, labels, _ = images_of(data)
    few, held = train[:TRAINING_IMAGES], test[:images]
    targets = {"mixed": grid_of(network, few), "real": network(train)}
    wanted = {"mixed": grid_of(network, held), "real": network(test)}
    found: dict[str, Any] = {}
    for kind, imitate, patches in (("mixed", imitate_mixed, few), ("real", imitate_real, train)):
        started = time.perf_counter()
        shallow = shallow_network(network, train, units, recipe.mode_size, SEED)
        imitate(shallow, patches, targets[kind], recipe, SEED)
        scores = shallow(test)
        found[kind] = {
            "error_on_mixed": relative_error(grid_scores(shallow, held, held), wanted["mixed"]),
            "error_on_real": relative_error(scores, wanted["real"]),
            "test_acc": float((scores.argmax(1) == labels).double().mean()),
            "parameters": sum(p.numel() for p in shallow.parameters()),
            "weights_sha256": weights_sha256(shallow.state_dict()),
            "seconds": round(time.perf_counter() - started, 1),
        }
    return found


def certified(run: Run) -> dict[str, int]:
    """The certified rank after every epoch, the smallest over the classes."""
    checks = [json.loads(line) for line in run.checks_file.read_text().splitlines()]
    return {f"epoch {check['epoch'] + 1}": min(check["certified"]) for check in checks if "certified" in check}


def points(options: argparse.Namespace, runs: dict[tuple[str, str, int], Run]) -> Iterator[tuple[Subject, Run]]:
    """Every network in every state, the trained ones first."""
    states = [f"epoch {e}" for e in reversed(recorded_epochs(options.epochs))]
    states.insert(1, "Gaussian cores")
    for state in states:
        for (data, cores, rank), run in runs.items():
            yield Subject(data, cores, rank, state), run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=512, help="K")
    parser.add_argument("--units", type=int, nargs="*", default=[4, 16, 64, 256], help="widths of the imitators")
    parser.add_argument("--distil", type=int, nargs="*", default=[16], help="TT-ranks whose networks are imitated")
    parser.add_argument("--steps", type=int, default=2000, help="of an imitator's training")
    parser.add_argument("--jobs", type=int, help="runs side by side")
    parser.add_argument("--output", type=Path, default=Path("results/width_against_error"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.datasets, options.ranks, options.distil, options.epochs = ["mnist5k"], [2], [2], 1
        options.images, options.units, options.steps = 64, [1, 4], 50
    store = options.output.with_suffix(".json")
    recipe = Recipe(steps=options.steps)
    settings = {"epochs": options.epochs, "images": options.images, "recipe": asdict(recipe), "seed": SEED}
    found = read_json(store) if store.exists() else {"settings": settings, "points": {}}
    if found["settings"] != settings:
        raise ttlightning.UserError(f"{store} has other settings, {found['settings']}: name another --output")
    wanted = [(d, c, r) for r in options.ranks for d in options.datasets for c in KINDS]
    outcomes = make_runs([job(*each, options.epochs) for each in wanted], options.jobs)
    runs = dict(zip(wanted, require(outcomes), strict=True))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for subject, run in points(options, runs):
            before = found["points"].get(str(subject), {"imitators": {}})
            if "rounding" not in before:  # not measured, or by a version that did not keep both widths
                measured = measure(network_of(run, subject.state), subject.data, options.images)
                measured["certified"] = certified(run).get(subject.state)
                found["points"][str(subject)] = subject._asdict() | measured | {"imitators": before["imitators"]}
                write_json(store, found)
    for subject, run in points(options, runs):
        imitators = found["points"][str(subject)]["imitators"]
        if subject.rank not in options.distil or subject.state not in _imitated(options.epochs):
            continue
        for units in options.units:
            if str(units) not in imitators:
                network = network_of(run, subject.state)
                imitators[str(units)] = distil(network, subject.data, options.images, units, recipe)
                write_json(store, found)
    options.output.with_suffix(".md").write_text(table(found))
    draw(found, options.output.with_suffix(".png"))
    print(table(found), end="")


def _imitated(epochs: int) -> tuple[str, ...]:
    return f"epoch {epochs}", "epoch 0", "Gaussian cores"


if __name__ == "__main__":
    run_script(main)
