"""Networks without a weight tensor, through the public commands: all that follows from scores, and no ranks."""

import csv
import re

import numpy as np
import pytest
import torch
from conftest import assert_one_line, contents
from torch import nn

import ttlightning
from ttlightning.data.patches import Patching
from ttlightning.networks.baselines import CNN, LSTM, MLP, LogisticRegression

OPTIONS = {
    "LogisticRegression": (),
    "MLP": ("--model.format.width=5",),
    "CNN": ("--model.format.width=3",),
    "LSTM": ("--model.format.width=6",),
}

ONE_QUICK = [kind if kind == "LSTM" else pytest.param(kind, marks=pytest.mark.slow) for kind in OPTIONS]
"""All kinds, most of them in the long run of the tests only."""


def words(kind: str, *more: str) -> tuple[str, ...]:
    """A few steps of ``fit`` on small images."""
    return ("--config=debug.yaml", "--experiment=b", "--data.dataset=mnist", "--data.batch_size=20",
            "--model.features=Pixels", f"--model.format={kind}", *OPTIONS[kind], *more)  # fmt: skip


@pytest.mark.parametrize("kind", ONE_QUICK)
@pytest.mark.usefixtures("rerun_in_this_process")
def test_a_baseline_is_trained_tested_predicted_loaded_rerun_and_compared(command, kind):
    run = command.finished(*words(kind))
    result = command.result("b/0")
    assert result["rank"] == {}
    assert not (run / "rank").exists()
    assert {file.name for file in (run / "figures").iterdir()} >= {"confusion.csv", "mistakes.csv"}
    assert not (run / "figures/spectrum.csv").exists()

    tested = command("test", "--ckpt_path=runs/b/0", "--wandb.mode=disabled").stdout
    [accuracy] = re.findall(r"test/acc\D+([0-9.]+)", tested)
    assert float(accuracy) == pytest.approx(result["metrics"]["test/acc"])
    command("predict", "--ckpt_path=runs/b/0", "--output=p.csv")
    rows = list(csv.DictReader((command.folder / "p.csv").open()))
    predicted = np.array([[float(row[f"p{y}"]) for y in range(10)] for row in rows])
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-5)
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(result["metrics"]["test/acc"])

    network = ttlightning.load(run)
    assert type(network.format).__name__ == kind
    assert network.format.weight_tensor() is None
    assert sum(p.numel() for p in network.parameters()) == result["parameters"]
    data = ttlightning.PatchDataModule("mnist", root=command.data, patch_size=14)
    data.prepare_data()
    data.setup("test")
    np.testing.assert_allclose(network.predict(data.images.test.images), predicted, atol=1e-6)

    assert "bitwise identical" in command("rerun", "runs/b/0").stdout
    assert contents(command.folder / "runs/b/1") == contents(run)
    assert f"{100 * result['metrics']['test/acc']:.2f}" in command("compare", "runs/b/0", "runs/b/1").stdout


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_baseline_says_in_one_line_that_it_has_no_weight_tensor(command, kind):
    command.finished(*words(kind))
    why = f"holds a {kind}, which has no weight tensor: there is nothing to certify"
    for options in ((), ("--sampled=16",), ("--width=4",)):
        assert_one_line(command("certify", "runs/b/0", *options, "--output=c.json", code=2).stderr, why)
    assert not list(command.folder.glob("c.*"))


def test_fit_says_that_there_are_no_ranks(command):
    said = command("fit", *words("MLP")).stdout.splitlines()
    assert "ranks       none: MLP has no weight tensor" in said
    assert "features    n = 196 of each 196-value patch, the pixels themselves" in said
    assert "weights     MLP, d = 4 sites, width 5, 10 classes" in said
    assert not [line for line in said if line.startswith(("certified", "shallow"))]


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_a_killed_baseline_goes_on_to_the_same_bits(command, kind):
    run = command.finished(*words(kind, "--last_checkpoint.every_n_steps=2"))
    command.killed(5, "fit", *words(kind, "--last_checkpoint.every_n_steps=2"))
    command("fit", "--ckpt_path=runs/b/1")
    assert contents(command.folder / "runs/b/1") == contents(run)


@pytest.mark.parametrize("kind", ONE_QUICK)
def test_a_baseline_is_exported(command, kind):
    command.finished(*words(kind))
    assert "checked      32 images" in command("export", "runs/b/0", "--to=pt2", "--output=b.pt2").stdout
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    found = torch.export.load(command.folder / "b.pt2").module()(images)[0]
    torch.testing.assert_close(found, ttlightning.load(command.folder / "runs/b/0").predict(images))


@pytest.mark.parametrize(
    ("option", "got"),
    [
        ("--data.stride=7", "stride 7, padding 0"),
        ("--data.order=snake", "order snake"),
        ("--data.repeat=4", "repeat 4"),
        ("--model.format.channels=3", "tile no square image of 3 channels"),
        ("--model.format.width=0", "width is 0, it must be at least 1"),
    ],
)
def test_a_cnn_refuses_what_is_no_image(command, option, got):
    more = ("--data.order=hilbert",) if option == "--data.repeat=4" else ()
    assert_one_line(command("fit", *words("CNN", option, *more), code=2).stderr, got)
    assert not (command.folder / "runs").exists()


def test_a_checkpoint_with_a_changed_width_is_one_line(command):
    run = command.finished(*words("MLP"))
    for width, why in ((7, "is a checkpoint of another network"), ("x", "does not say what network it holds"),
                       (0, "width is 0, it must be at least 1")):  # fmt: skip
        content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        content["ttlightning_network"]["width"] = width
        torch.save(content, command.folder / "x.ckpt")
        with pytest.raises(ttlightning.UserError, match=why):
            ttlightning.load(command.folder / "x.ckpt")


def test_a_cnn_sees_the_image_that_was_cut():
    """Its scores are those of the same layers on the image."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 28, 28)
    network = CNN(16, 3 * 49, 4, width=2, channels=3)
    layers = nn.Sequential(network.first, nn.GELU(), network.second, nn.GELU(), nn.Flatten(), network.last)
    torch.testing.assert_close(network(Patching(7)(images)), layers(images))


@pytest.mark.parametrize("sites", [4, 16])
def test_parameters_are_those_of_the_docstrings(sites):
    n, classes, w = 196 * 4 // sites, 10, 3
    left = 4
    counts = {
        LogisticRegression(sites, n, classes): classes * (sites * n + 1),
        MLP(sites, n, classes, w): w * (sites * n + 1) + classes * (w + 1),
        CNN(sites, n, classes, w): w * 26 + 2 * w * (25 * w + 1) + classes * (2 * w * left**2 + 1),
        LSTM(sites, n, classes, w): 4 * w * (n + w + 2) + classes * (w + 1),
    }
    for network, count in counts.items():
        assert network.parameter_count() == count
