"""``export``: the file computes what ``predict`` writes, without this package; nothing wrong is kept."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from conftest import assert_one_line
from kinds import FORMATS

from ttlightning import load
from ttlightning.data.datasets import read_dataset
from ttlightning.networks import deployed

QUIET = ("--config", "debug.yaml", "--trainer.enable_progress_bar", "false", "--figures", "false")
READER = """
import json, sys, torch
sys.modules["ttlightning"] = None  # an import of it fails
file, images, output = sys.argv[1:]
images = torch.load(images)
if file.endswith("onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(file)
    probabilities, predicted = map(torch.from_numpy, session.run(None, {"images": images.numpy()}))
    metadata = session.get_modelmeta().custom_metadata_map
else:
    extra = {"metadata.json": ""}
    probabilities, predicted = torch.export.load(file, extra_files=extra).module()(images)
    metadata = json.loads(extra["metadata.json"])
torch.save((probabilities, predicted, metadata), output)
"""


def read_elsewhere(command, file, images):
    """Probabilities, classes and metadata, by a process that cannot import this package."""
    given, output = command.folder / "images.pt", command.folder / "output.pt"
    torch.save(images, given)
    subprocess.run([sys.executable, "-c", READER, file, given, output], check=True, capture_output=True)
    return torch.load(output)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [FORMATS[0], *(pytest.param(k, marks=pytest.mark.nightly) for k in FORMATS[1:])])
def test_an_exported_file_predicts_what_predict_writes(command, kind):
    """All test images, by onnxruntime and by torch alone."""
    command("fit", *QUIET, "--model.format", kind.__name__, "--model.format.rank", "3")
    command("predict", "--ckpt_path", "runs/debug/0")
    with (command.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = torch.tensor([[float(row[f"p{c}"]) for c in range(10)] for row in rows])
    images = read_dataset("mnist5k", command.data).test.images
    for to in ("onnx", "pt2"):
        command("export", "runs/debug/0", "--to", to, "--output", f"{kind.__name__}.{to}")
        probabilities, predicted, metadata = read_elsewhere(command, f"{command.folder}/{kind.__name__}.{to}", images)
        torch.testing.assert_close(probabilities, right, rtol=0, atol=1e-5)
        assert predicted.tolist() == [int(row["predicted"]) for row in rows]
        assert metadata["format"] == kind.__name__
        assert metadata["weights_sha256"] == command.result("debug/0")["weights_sha256"]
        classes = metadata["classes"]
        assert (json.loads(classes) if to == "onnx" else classes) == list(
            load(command.folder / "runs/debug/0").class_names
        )


@pytest.mark.filterwarnings("ignore")
def test_a_pt2_file_is_checked_and_kept(command):
    run = command.finished(*QUIET)
    done = command("export", "runs/debug/0", "--to", "pt2")
    assert "checked      32 images by torch" in done.stdout
    assert "exported     runs/debug/0/network.pt2" in done.stdout
    assert (run / "network.pt2").stat().st_size > 10_000
    again = command("export", "runs/debug/0", "--to", "pt2", code=2)
    assert_one_line(again.stderr, "network.pt2 exists and is left as it is; name another file with --output")


def test_mistakes_are_one_line(command, monkeypatch):
    command.finished(*QUIET)
    for words, message in (
        (("runs/debug/7", "--to", "pt2"), "no checkpoint at runs/debug/7"),
        (("runs/debug/0", "--to", "tflite"), "tflite"),
        (("runs/debug/0",), "to"),
        (("runs/debug/0", "--to", "pt2", "--output", "none/a.pt2"), "none is not a folder"),
    ):
        assert_one_line(command("export", *words, code=2).stderr, message)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = command("export", "runs/debug/0", "--to", "onnx", code=2)
    assert_one_line(done.stderr, "ONNX needs the package onnxscript, which is not installed: pip install ttlightning")
    assert not list((command.folder / "runs").rglob("network*"))


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_differs_is_not_kept(command, monkeypatch):
    command.finished(*QUIET)

    def another_network(self, images):
        return torch.full((images.shape[0], 10), 0.1), images[:, 0, 0, 0].long()

    monkeypatch.setattr(deployed.Deployed, "forward", another_network)
    done = command("export", "runs/debug/0", "--to", "pt2", code=2)
    assert_one_line(done.stderr, "the exported program is wrong: probabilities differ by up to")
    assert not list((command.folder / "runs").rglob("network*"))
