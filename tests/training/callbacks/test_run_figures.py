"""What a run shows when it is over is what a prediction of the same test set says, counted another way."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_wandb
from PIL import Image

from ttlightning import Classifier
from ttlightning.formats import CanonicalPolyadic, TensorTrain
from ttlightning.rank.measures import measure_spectra
from ttlightning.rank.spectrum import bond_spectra
from ttlightning.rank.unfolding import matricization
from ttlightning.training.callbacks import run_figures as module
from ttlightning.training.callbacks.run_figures import SHOWN, Verdicts, gather, show_confusion, show_mistakes

SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist")


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline="")))


def test_the_files_say_what_predict_says(command, monkeypatch):
    """From one pass over the test set."""
    passes = []
    whole = Classifier.test_step
    monkeypatch.setattr(Classifier, "test_step", lambda *args: passes.append(args[2]) or whole(*args))
    command.draws = True
    command("fit", *SMALL, "--data.evaluation_batch_size=20")
    assert passes == [0, 1, 2]
    command("predict", "--ckpt_path=runs/debug/0", "--output=p.csv")
    predicted = rows(command.folder / "p.csv")
    figures = command.folder / "runs/debug/0/figures"

    counts = Counter((row["label"], row["predicted"]) for row in predicted)
    found = rows(figures / "confusion.csv")
    assert [row["label"] for row in found] == [str(n) for n in range(10)]
    assert {(row["label"], c): int(row[c]) for row in found for c in row if c != "label" and row[c] != "0"} == counts

    wrong = [row for row in predicted if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: -max(float(row[f"p{c}"]) for c in range(10)))
    mistakes = rows(figures / "mistakes.csv")
    assert len(mistakes) == min(len(wrong), SHOWN) > 5
    for row, again in zip(wrong, mistakes, strict=False):
        assert [row[key] for key in ("index", "label", "predicted")] == [
            again[k] for k in ("index", "label", "predicted")
        ]
        p = [float(row[f"p{c}"]) for c in range(10)]
        assert [float(again[f"p{c}"]) for c in range(10)] == pytest.approx(p, rel=1e-4)
        assert float(again["probability"]) == pytest.approx(max(p), rel=1e-4)
    for name in ("confusion", "mistakes", "spectrum"):
        with Image.open(figures / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10, name


def test_without_figures(command):
    command("fit", *SMALL, "--figures=false")
    assert not (command.folder / "runs/debug/0/figures").exists()


def test_without_the_test_set_there_is_the_spectrum(command):
    command("fit", *SMALL, "--test_after_fit=false")
    assert sorted(p.name for p in (command.folder / "runs/debug/0/figures").iterdir()) == [
        "spectrum.csv",
        "spectrum.png",
    ]


def test_the_objects_of_wandb(command):
    """Read back with W&B's own reader: a chart, tables, pictures; axes; tags. No artifact: those leave the folder."""
    command.environment["WANDB_MODE"], command.draws = "offline", True
    command("fit", *SMALL, "--wandb.tags=[mine, mnist]", "--seed_everything=3")
    run = command.folder / "runs/debug/0"
    [log] = run.glob("wandb/offline-run-*/*.wandb")
    found, records = read_wandb(log)
    tags = ["mine", "mnist", "EqualCoreTensorTrain", "equal cores", "d=4", "n=5", "r=4", "seed=3"]
    assert found["tags"] == tags
    summary = found["summary"]
    files = log.parent / "files"
    mistakes = rows(run / "figures/mistakes.csv")
    for name, lines in (("test/confusion", 100), ("test/mistakes", len(mistakes)), ("rank/spectrum", 12)):
        table = json.loads((files / summary[f"{name}_table"]["path"]).read_text())
        assert len(table["data"]) == summary[f"{name}_table"]["nrows"] == lines
    table = json.loads((files / summary["test/confusion_table"]["path"]).read_text())
    counts = {
        (row["label"], c): int(row[c]) for row in rows(run / "figures/confusion.csv") for c in row if c != "label"
    }
    assert {(actual, said): count for actual, said, count in table["data"]} == counts
    captions = [f"{r['label']} as {r['predicted']}, {100 * float(r['probability']):.0f}%" for r in mistakes]
    assert summary["test/mistakes"]["captions"] == captions
    test = Image.open(files / summary["test/mistakes"]["filenames"][0])
    raw = (command.data / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    image = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28)[int(mistakes[0]["index"])]
    assert np.array_equal(np.asarray(test), image)
    assert (files / summary["rank/spectrum"]["path"]).read_bytes() == (run / "figures/spectrum.png").read_bytes()
    assert isinstance(summary["val/acc"], float)  # what a sweep's metric reads

    kinds = {record["type"] for record in records}
    assert "artifact" not in kinds
    assert any("wandb/confusion_matrix/v1" in json.dumps(record) for record in records if record["type"] == "config")
    axes = {
        m.get("name") or m["glob_name"]: m.get("step_metric") for m in (r["metric"] for r in records if "metric" in r)
    }
    steps = "trainer/global_step"
    by_epoch = dict.fromkeys(("train/loss", "train/acc", "val/*"), "epoch")
    assert axes == {"epoch": None, steps: None, "*": steps} | by_epoch


def test_nothing_is_made_for_wandb_where_it_is_disabled(command, monkeypatch):
    monkeypatch.setattr(module.wandb, "Table", None)
    monkeypatch.setattr(module.wandb, "Image", None)
    command("fit", *SMALL)
    assert (command.folder / "runs/debug/0/figures/mistakes.png").exists()


def test_the_surest_mistakes_come_first_and_the_first_of_two_as_sure():
    scores = torch.tensor([[9.0, 0], [0, 1], [3, 0], [0, 2], [3, 0]])
    found = Verdicts(torch.arange(5), torch.tensor([0, 0, 1, 0, 1]), scores)
    assert found.surest_mistakes().tolist() == [2, 4, 3, 1]


def test_verdicts_of_devices_are_gathered_in_order(monkeypatch):
    """The second device has a shorter shard, the third none."""
    scores = torch.rand(5, 3)
    shards = [Verdicts(torch.arange(a, b), torch.arange(a, b) % 3, scores[a:b]) for a, b in ((0, 3), (3, 5), (5, 5))]
    for own in shards:
        place = iter(zip(*shards, strict=True))
        monkeypatch.setattr(module, "gather_all_tensors", lambda part, place=place: list(next(place)))
        parts = [Verdicts(*(values[k : k + 1] for values in own)) for k in range(len(own.index))]
        found = gather(parts, 3, 3, torch.device("cpu"))
        assert found.index.tolist() == list(range(5))
        assert torch.equal(found.scores, scores)
        assert found.scores.dtype == torch.float32


def test_figures_and_tables_show_the_names_of_classes(tmp_path, monkeypatch):
    """In the figures, whatever matplotlib makes of a dollar sign otherwise, in the tables and in W&B's chart."""
    names = ("ant", "$\\frac$ of a very long name", "a_b^")
    scores = torch.eye(3)[[1, 1, 2, 0]]
    found = Verdicts(torch.arange(4), torch.tensor([0, 1, 2, 2]), scores)
    drawn = []
    whole = module.draw_mistakes
    monkeypatch.setattr(module, "draw_mistakes", lambda *args: drawn.append(args) or whole(*args))
    chart = show_confusion(found, tmp_path, True, names)["test/confusion"]
    counts = {(actual, said): count for actual, said, count in chart.table.data if count}
    assert counts == {(names[a], names[b]): 1 for a, b in ((0, 1), (1, 1), (2, 2), (2, 0))}
    assert rows(tmp_path / "confusion.csv") == [
        {"label": "0", "label_name": names[0], "0": "0", "1": "1", "2": "0"},
        {"label": "1", "label_name": names[1], "0": "0", "1": "1", "2": "0"},
        {"label": "2", "label_name": names[2], "0": "1", "1": "0", "2": "1"},
    ]
    pictures = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    table = show_mistakes(found, pictures, tmp_path, True, names)["test/mistakes_table"]
    assert [row[:5] for row in table.data] == [[0, 0, names[0], 1, names[1]], [3, 2, names[2], 0, names[0]]]
    assert [row["predicted_name"] for row in rows(tmp_path / "mistakes.csv")] == [names[1], names[0]]
    assert drawn[0][1] == ["ant as $\\frac…\n58%", "a_b^ as ant\n58%"]


def test_data_that_are_no_pictures(tmp_path):
    """Points of a plane: a table of mistakes, and no picture of any."""
    found = Verdicts(torch.arange(2), torch.tensor([0, 1]), torch.tensor([[0.0, 1], [0, 1]]))
    objects = show_mistakes(found, torch.rand(2, 1, 2, 1), tmp_path, True)
    assert list(objects) == ["test/mistakes_table"]
    [row] = objects["test/mistakes_table"].data
    assert row == pytest.approx([0, 0, 1, 0.731059, 0.268941, 0.731059], rel=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["mistakes.csv"]


def test_no_mistakes_at_all(tmp_path):
    (tmp_path / "mistakes.png").touch()  # of a process that was stopped
    found = Verdicts(torch.arange(2), torch.tensor([0, 1]), torch.tensor([[1.0, 0], [0, 1]]))
    show_mistakes(found, torch.zeros(2, 1, 4, 4, dtype=torch.uint8), tmp_path, False)
    assert (tmp_path / "mistakes.csv").read_text() == "index,label,predicted,probability,p0,p1\n"
    assert not (tmp_path / "mistakes.png").exists()


def test_spectra_of_bonds_and_of_classes():
    chain = TensorTrain(sites=4, mode_size=3, classes=2, rank=2)
    of, spectra = measure_spectra(chain, 8, 0)
    assert (of, list(spectra)) == ("bond", [1, 2, 3])
    for values, again in zip(spectra.values(), bond_spectra(chain.cores()), strict=True):
        assert torch.equal(values, again)
    shallow = CanonicalPolyadic(sites=4, mode_size=3, classes=2, rank=2)
    of, spectra = measure_spectra(shallow, 8, 0)
    assert (of, list(spectra)) == ("class", [0, 1])
    for y, values in spectra.items():
        assert values[0] == 1
        assert int((values > 1e-5).sum()) == int(torch.linalg.matrix_rank(matricization(shallow)[y]))
