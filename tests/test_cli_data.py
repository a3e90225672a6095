"""The command line with pictures of the user's own, and with points: training on them, predicting them."""

import csv
import re

import numpy as np
import pytest
import torch
from conftest import assert_one_line
from torchvision.datasets.mnist import read_image_file
from torchvision.io import write_png

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist")


def test_predict_images_of_ones_own(command):
    """Pictures and an IDX file are classed as the test set's images that they show; no data set is needed for it."""
    command("fit", *SMALL)
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
    (root / "train/cat/03.JPEG").write_bytes(b"damaged")
    refused = command("fit", *small, code=2)
    assert_one_line(refused.stderr, "insects/train/cat/03.JPEG is no picture, or is damaged")
    assert [p.name for p in (command.folder / "runs/debug").iterdir()] == ["0"]


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
        ("short", bytes([0, 0, 8, 3, 0, 0]), "short is no IDX file of images, or is damaged"),
        ("empty", "folder", "empty has no pictures"),
        ("large.png", torch.zeros(1, 30, 40, dtype=torch.uint8), "large.png is 40 pixels wide and 30 high"),
    ],
)
def test_images_that_cannot_be_read(command, name, content, message):
    command("fit", *SMALL)
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
