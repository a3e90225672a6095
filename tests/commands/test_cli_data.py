"""The command line with pictures of the user's own, and with points: training on them, predicting them."""

import csv
import errno
import json
import os
import re

import numpy as np
import pytest
import torch
from conftest import assert_one_line
from lightning.pytorch import Trainer as LightningTrainer
from torchvision.datasets.mnist import read_image_file
from torchvision.io import write_png

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist")


def test_predict_images_of_ones_own(command):
    """Pictures and an IDX file are classed as the test set's images that they show; no data set is needed for it."""
    command.finished(*SMALL)
    command("predict", "--ckpt_path=runs/debug/0", "--output=test.csv")
    raw = command.data / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    digits = read_image_file(str(raw))[:3]
    (command.folder / "digits").mkdir()
    for index, digit in enumerate(digits):
        write_png(digit.unsqueeze(0), str(command.folder / f"digits/{index}.png"))
    idx = command.folder / "idx3-ubyte"
    idx.write_bytes(raw.read_bytes())
    command.environment["TTLIGHTNING_DATA"] = str(command.folder / "absent")
    command("predict", "--ckpt_path=runs/debug/0", f"--images=[digits, {idx}]", "--output=own.csv")
    test, own = (list(csv.DictReader((command.folder / name).open())) for name in ("test.csv", "own.csv"))
    assert [row["file"] for row in own[:4]] == ["digits/0.png", "digits/1.png", "digits/2.png", str(idx)]
    assert [row["index"] for row in own] == ["0"] * 3 + [str(n) for n in range(50)]
    probabilities = [[row[f"p{c}"] for c in range(10)] for row in test]
    found = [[float(row[f"p{c}"]) for c in range(10)] for row in own]
    assert found == pytest.approx(
        np.array([[float(p) for p in row] for row in probabilities[:3] + probabilities]), rel=1e-4
    )
    assert [row["predicted"] for row in own] == [row["predicted"] for row in test[:3] + test]


def test_the_recipe_for_all_images_takes_a_folder_as_the_page_has_it(command, write_pictures):
    """Without another option; and data that are not there are not replaced by digits."""
    write_pictures(command.folder / "own", train=60, side=32)
    data = ("--config=best/any.yaml", "--data.dataset=image_folder", "--data.root=own", "--test_after_fit=false")
    done = command("fit", *data, "--trainer.max_epochs=3")
    assert "images      moved in every epoch: data.augmentation.epochs is 17, of 3 epochs" in done.stdout
    assert command.result("any/0")["dataset"] == "image_folder"
    assert command.result("any/0")["parameters"] == 129_168 - 7 * 49 * 32  # three classes instead of ten
    done = command("fit", *data, "--trainer.max_epochs=3", "--data.augmentation.epochs=2")
    assert "moved in every epoch" not in done.stdout
    refused = command("fit", "--config=best/any.yaml", "--data.dataset=fashion_mnist", "--data.root=nowhere", code=2)
    assert_one_line(refused.stderr, "fashion_mnist")


def test_a_folder_of_pictures(command, write_pictures):
    """Trained, tested, and a picture of one's own classed as the same picture of the test set is."""
    root = write_pictures(command.folder / "insects")
    small = ("--config=debug.yaml", "--data.dataset=image_folder", "--data.root=insects", "--data.patch_size=4")
    done = command("fit", *small)
    assert "reading     the pictures under insects" in done.stdout
    assert "image_folder: 11 train, 1 validation, 6 test" in done.stdout
    assert command.result("debug/0")["dataset"] == "image_folder"
    assert len(command.result("debug/0")["rank"]["certified"]) == 3
    command("predict", "--ckpt_path=runs/debug/0", "--output=test.csv")
    command("predict", "--ckpt_path=runs/debug/0", "--images=insects/test/bee", "--output=own.csv")
    test, own = (list(csv.DictReader((command.folder / name).open())) for name in ("test.csv", "own.csv"))
    assert [row["label"] for row in test] == list("001122")
    assert [row["file"] for row in own] == ["insects/test/bee/00.png", "insects/test/bee/01.png"]
    found, expected = ([[float(row[f"p{c}"]) for c in range(3)] for row in rows] for rows in (own, test[2:4]))
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4)
    names = ["ant", "bee", "cat"]
    assert all(row["predicted_name"] == names[int(row["predicted"])] for row in test + own)
    assert [row["label_name"] for row in test] == [name for name in names for _ in range(2)]
    run = command.folder / "runs/debug/0"
    assert json.loads((run / "provenance.json").read_text())["dataset"]["classes"] == names
    confusion = list(csv.DictReader((run / "figures/confusion.csv").open()))
    assert [(row["label"], row["label_name"]) for row in confusion] == list(zip("012", names, strict=True))
    for row in csv.DictReader((run / "figures/mistakes.csv").open()):
        assert (row["label_name"], row["predicted_name"]) == tuple(names[int(row[c])] for c in ("label", "predicted"))

    write_pictures(command.folder / "pets", ("ant", "bee", "cow"))
    for verb in (["test"], ["validate"], ["predict", "--output=pets.csv"], ["fit", "--trainer.max_epochs=2"]):
        refused = command(*verb, "--ckpt_path=runs/debug/0", "--data.root=pets", code=2)
        assert_one_line(refused.stderr, "trained on other classes: number 2 is 'cat' there and 'cow' in the data here")
    assert not (command.folder / "pets.csv").exists()

    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / "cow")
    done = command("rerun", "runs/debug/0", "--check_only", code=1)
    assert 'differs     dataset.classes: ["ant", "bee", "cat"] -> ["ant", "bee", "cow"]' in done.stdout
    for part in ("train", "test"):
        (root / part / "cow").rename(root / part / "cat")

    (root / "train/cat/03.JPEG").write_bytes(b"damaged")
    refused = command("fit", *small, code=2)
    assert_one_line(refused.stderr, "insects/train/cat/03.JPEG is no picture, or is damaged")
    assert [p.name for p in (command.folder / "runs/debug").iterdir()] == ["0"]


def test_predictions_are_written_whole_or_not_at_all(command, monkeypatch):
    """A fault while they are written leaves nothing, nor does a name that a table cannot have; what another process has
    written meanwhile is left alone."""
    command.finished(*SMALL)
    output, folder = command.folder / "predictions.csv", command.folder / "digits"
    folder.mkdir()
    write_png(torch.zeros(1, 28, 28, dtype=torch.uint8), str(folder / "x.png"))
    (folder / "x.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    refused = command("predict", "--ckpt_path=runs/debug/0", "--images=digits", code=2)
    assert_one_line(refused.stderr, "digits/caf\\xe9.png is no name in UTF-8")
    assert not list(command.folder.glob("predictions*"))

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_one_line(command("predict", "--ckpt_path=runs/debug/0", code=1).stderr, "No space left on device")
    assert not list(command.folder.glob("predictions*"))
    whole = LightningTrainer.predict

    def slow(*words):
        output.write_text("another's")
        return whole(*words)

    monkeypatch.setattr(LightningTrainer, "predict", slow)
    refused = command("predict", "--ckpt_path=runs/debug/0", code=2)
    assert_one_line(refused.stderr, "predictions.csv exists and is left as it is")
    assert output.read_text() == "another's"


def test_points(command):
    """Trained and scored like pictures, each coordinate read twice; there are no pictures of one's own to predict."""
    done = command("fit", "--config=toy/moons.yaml")
    assert "moons: 2,000 train, 0 validation, 2,000 test" in done.stdout
    assert "n = 4 of each 1-value patch" in done.stdout
    result = command.result("moons/0")
    assert (result["dataset"], result["rank"]["sites"]) == ("moons", 4)
    assert result["metrics"]["test/acc"] > 0.95  # no straight line gets beyond 0.89
    [found] = re.findall(r"test/acc\D+([0-9.]+)", command("test", "--ckpt_path=runs/moons/0").stdout)
    assert float(found) == pytest.approx(result["metrics"]["test/acc"])
    refused = command("predict", "--ckpt_path=runs/moons/0", "--images=moon.png", code=2)
    assert_one_line(refused.stderr, "data.dataset is moons: its samples are points, no pictures; leave --images out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.png", None, "absent.png does not exist"),
        ("damaged.png", b"not a picture", "damaged.png is no picture, or is damaged"),
        ("short", bytes([0, 0, 8, 3, 0, 0]), "short is truncated: 6 bytes, and 16 by its header"),
        ("empty", "folder", "empty has no pictures"),
        ("large.png", torch.zeros(1, 30, 40, dtype=torch.uint8), "large.png is 40 pixels wide and 30 high"),
    ],
)
def test_images_that_cannot_be_read(command, name, content, message):
    command.finished(*SMALL)
    path = command.folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, torch.Tensor):
        write_png(content, str(path))
    elif content:
        path.mkdir()
    done = command("predict", "--ckpt_path=runs/debug/0", f"--images={name}", code=2)
    assert_one_line(done.stderr, message)
    assert not (command.folder / "predictions.csv").exists()
