"""Time series and text from files: what is read, what is refused with its line, and what the batches hold."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_line, quiet_trainer

import ttlightning
from ttlightning import ByteFeatureMap, Classifier, EqualCoreTensorTrain, PatchDataModule, PatchFeatureMap, UserError
from ttlightning.data.augmentation import Augmentation
from ttlightning.data.patches import Patching
from ttlightning.data.sampler import Shard
from ttlightning.data.windows import Windows, as_sequences, windows_of
from ttlightning.runs.run import Run


def folder(path: Path, name: str, train: str, test: str) -> Path:
    ends = ("Set_TRAIN.tsv", "Set_TEST.tsv") if name == "time_series" else ("train.txt", "test.txt")
    for end, text in zip(ends, (train, test), strict=True):
        (path / end).write_bytes(text.encode())
    return path


def module(path: Path, name: str, patch_size=(1, 2), **options) -> PatchDataModule:
    data = PatchDataModule(name, path, patch_size=patch_size, **options)
    data.setup("test")
    return data


SERIES = "1\t0.5\t1\t2\tNaN\tNaN\n-1\t1\t2\t3\t4\t5\n", "-1\t7\t8\t9\t10\tNaN\n"
TEXT = "good\tabc\nbad\tabcde\tf\r\n", "good\té!x\n\n"


def test_series_of_different_lengths(tmp_path):
    data = module(folder(tmp_path, "time_series", *SERIES), "time_series", batch_size=2)
    assert (data.sites, data.patch_dim, data.class_names) == (3, 2, ("-1", "1"))
    [batch] = data.test_dataloader()
    assert batch.lengths.tolist() == [2]
    assert batch.patches.tolist() == [[[7.0, 8.0], [9.0, 10.0]]]
    [batch] = data.train_dataloader()
    order = batch.labels.tolist().index(1)
    assert batch.lengths[order] == 2
    assert batch.patches[order].tolist() == [[0.5, 1.0], [2.0, 0.0], [0.0, 0.0]]
    assert data.describe() | {"sha256": ""} == {
        "name": "time_series", "sha256": "", "train": 2, "validation": 0, "test": 1, "sites": 3, "patch_dim": 2,
        "shortest": 2, "cut": {"train": 0, "test": 0}, "classes": ["-1", "1"],
    }  # fmt: skip


@pytest.mark.parametrize("separators", [" ", ","])
def test_other_separators_and_floats_as_labels(tmp_path, separators):
    train, test = (part.replace("\t", separators).replace("1 0.5", "1.0000e+00 0.5") for part in SERIES)
    whole = module(folder(tmp_path, "time_series", train, test), "time_series").describe()
    (tmp_path / "tabs").mkdir()
    assert module(folder(tmp_path / "tabs", "time_series", *SERIES), "time_series").describe() == whole


def test_text_is_bytes_and_is_cut_with_a_count(tmp_path):
    data = module(folder(tmp_path, "text", *TEXT), "text", (1, 1), longest=4)
    assert (data.sites, data.class_names, data.describe()["cut"]) == (4, ("bad", "good"), {"train": 1, "test": 0})
    [batch] = data.test_dataloader()
    assert bytes(batch.pixels.flatten().tolist()) == "é!x".encode()
    assert (batch.lengths, batch.labels) == (torch.tensor([4]), torch.tensor([1]))
    [batch] = data.train_dataloader()
    rows = zip(batch.pixels, batch.lengths.tolist(), strict=True)
    assert {bytes(pixels[:length].flatten().tolist()) for pixels, length in rows} == {b"abc", b"abcd"}
    assert module(tmp_path, "text", (1, 1)).sites == 7


def test_sequences_of_one_length_are_images(tmp_path):
    """They have no lengths, so that every format takes them."""
    data = module(folder(tmp_path, "time_series", "1 1 2 3\n2 4 5 6\n", "1 0 0 0\n"), "time_series", (1, 1))
    assert not data.has_lengths
    [batch] = data.test_dataloader()
    assert batch.lengths is None


def test_the_hash_knows_the_lengths(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for path, train in ((one, "1 1 2 0\n2 1 2 3 4\n"), (other, "1 1 2 0 0\n2 1 2 3 4\n")):
        path.mkdir()
        folder(path, "time_series", train, "1 1 2 3 4\n")
    hashes = [module(path, "time_series", (1, 1), longest=5).describe()["sha256"] for path in (one, other)]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
    ("name", "train", "test", "message"),
    [
        ("time_series", "1 2 3 4\n1 x 3 4\n", "1 2 3 4\n", "Set_TRAIN.tsv, line 2: could not convert string to float"),
        ("time_series", "1 2 3 4\n2 3\n", "1 2 3 4\n", "Set_TRAIN.tsv, line 2: a sequence of 1 values; it must have 3"),
        ("time_series", "1 2 3 4\n2 3 NaN 4\n", "1 2 3 4\n", "line 2: value 2 is nan; only NaN behind"),
        ("time_series", "1 2 3 4\n2 3 1e60 4\n", "1 2 3 4\n", "line 2: value 2 is 1e"),
        ("time_series", "1 2 3 4\n\n2 3 4 5\n", "1 2 3 4\n", "line 2: it is empty"),
        ("time_series", "nan 2 3 4\n2 3 4 5\n", "1 2 3 4\n", "line 1: its label is not finite"),
        ("time_series", "1 2 3 4\n2 3 4 5\n", "1 2 3 4\n3 4 5 6\n", "Set_TEST.tsv, line 2: the label '3' is not in"),
        ("time_series", "1 2 3 4\n1 3 4 5\n", "1 2 3 4\n", "Set_TRAIN.tsv has one label, '1'"),
        ("time_series", "\n", "1 2 3 4\n", "Set_TRAIN.tsv has no sequences"),
        ("text", "a\tabc\nb abc\n", "a\tabc\n", "train.txt, line 2: it must be a label, a tab and text"),
        ("text", "a\tabc\nb\tab\n", "a\tabc\n", "train.txt, line 2: a sequence of 2 values; it must have 3 or more"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, train, test, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        module(folder(tmp_path, name, train, test), name)


def test_files_and_options_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"must have one file \*_TRAIN.tsv, it has 0 \(none\)"):
        module(tmp_path, "time_series")
    with pytest.raises(UserError, match=r"is no folder: name with --data.root"):
        module(tmp_path / "absent", "text")
    folder(tmp_path, "time_series", *SERIES)
    for options, message in (
        ({"patch_size": 2}, r"data.patch_size is 2, but a sequence has one row: a window of 2 values is \[1, 2\]"),
        ({"stride": (1, 3)}, "at most the window of 2 values"),
        ({"padding": 1}, "data.padding is 1, which is for images"),
        ({"repeat": 2}, "data.repeat is 2"),
        ({"order": "snake"}, "data.order is snake"),
        ({"longest": 2}, "data.longest is 2, it must be at least 3"),
        ({"augmentation": Augmentation(shift=1)}, "time_series has sequences"),
    ):
        with pytest.raises(UserError, match=message):
            module(tmp_path, "time_series", **options)
    with pytest.raises(UserError, match=r"data.longest is 5, which is for sequences, and mnist5k has none"):
        PatchDataModule("mnist5k", longest=5)
    with pytest.raises(UserError, match=r"text has the sizes .* it is no fallback"):
        PatchDataModule("mnist5k", offline_fallback="text")
    (tmp_path / "Other_TRAIN.tsv").touch()
    with pytest.raises(UserError, match="it has 2 "):
        module(tmp_path, "time_series")
    (tmp_path / "Set_TRAIN.tsv").unlink()
    with pytest.raises(UserError, match=r"Other_TRAIN.tsv is there, but its test set .*Other_TEST.tsv is not"):
        module(tmp_path, "time_series")


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (4, 4), (4, 3), (5, 1)])
def test_windows_hold_every_value_once_or_more(size, stride):
    windows = windows_of(Patching((1, size), (1, stride)))
    assert windows == Windows(size, stride)
    for values in range(windows.fewest, 30):
        width = windows.filled(values)
        sites = int(windows.sites(torch.tensor(values)))
        assert sites >= 2
        assert width - stride < values <= width
        assert Patching((1, size), (1, stride)).shape(1, 1, width) == (sites, size)
        one = as_sequences(np.arange(1.0, values + 1), windows, width)
        seen = Patching((1, size), (1, stride))(one.images)
        assert sorted({*seen.flatten().tolist()} - {0.0}) == list(range(1, values + 1))


def test_a_batch_trains_like_its_samples_one_by_one(tmp_path, write_mnist):
    """The gradient of a batch of sequences is the sum of the gradients of chains of their own length."""
    data = PatchDataModule("time_series", write_mnist(tmp_path), patch_size=(1, 4), batch_size=32, validation=0.1)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len({*batch.lengths.tolist()}) > 3
    model = Classifier(data.sites, data.patch_dim, data.classes, format=lambda *sizes: EqualCoreTensorTrain(*sizes, 4))
    model.trainer = quiet_trainer(tmp_path)
    losses, _ = model._losses(batch)
    losses.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for patches, label, length in zip(batch.patches, batch.labels, batch.lengths.tolist(), strict=True):
        scores = model.format.of_length(length)(model.embed(patches[None, :length]))
        torch.nn.functional.cross_entropy(scores, label[None]).backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-4)


def test_a_part_of_a_batch_is_the_batch_of_a_device(tmp_path, write_mnist):
    """Also in its number of sites, on which the order of the sums of the feature map depends."""
    data = PatchDataModule("time_series", write_mnist(tmp_path), patch_size=(1, 4), batch_size=10)
    data.setup("fit")
    whole = list(data.train_dataloader())
    shorter = 0
    for rank in range(4):
        data.shard = Shard(rank, 4)
        for batch, own in zip(whole, data.train_dataloader(), strict=True):
            part = batch.slice_of(data.shard)
            assert part.start == own.start
            for name in ("pixels", "labels", "lengths"):
                assert torch.equal(getattr(part, name), getattr(own, name))
            assert own.pixels.shape[1] == int(own.lengths.max())
            shorter += own.pixels.shape[1] < batch.pixels.shape[1]
    assert shorter > 0


def test_a_byte_is_looked_up_as_a_one_hot_vector_times_the_matrix():
    features = ByteFeatureMap(3, mode_size=5, activation="gelu")
    plain = PatchFeatureMap(3 * 256, mode_size=5, activation="gelu")
    plain.load_state_dict(features.state_dict())
    taken = torch.randint(0, 256, (7, 4, 3))
    one_hot = torch.nn.functional.one_hot(taken, 256).float().flatten(2)
    torch.testing.assert_close(features(taken / 255), plain(one_hot))
    every = torch.arange(256).reshape(-1, 1)
    embedded = ByteFeatureMap(1, 4)(every / 255)
    assert embedded.shape == (256, 4)
    assert len({*map(tuple, embedded.tolist())}) == 256


TEXT_RUN = ("--config=sequences/text.yaml", "--trainer.max_epochs=1", "--data.longest=40")


def test_a_run_says_and_refuses_what_it_should(command):
    run = command.finished(*TEXT_RUN)
    lines = (run / "rank/checks.jsonl").read_text()
    assert '"sites": 40' in lines
    assert "width_10_percent" not in lines
    for words, message in (
        (("export", run, "--to=pt2"), "takes sequences of different lengths"),
        (("certify", run, "--width=4"), "PatchFeatureMap"),
        (("certify", run, "--length=1"), "--length: sites is 1"),
        (("certify", "--length=4", "--mode_size=3", "--rank=2", "--sites=4"), "--length is for a trained network"),
        (("predict", f"--ckpt_path={run}", "--images=x.png"), "takes lists of others"),
    ):
        assert_one_line(command(*words, code=2).stderr, message)
    for words, message in (
        (("--model.format=TensorTrain",), "TensorTrain has parameters for each of 40 sites and none for sequences"),
        (("--model.pixel_mean=0.1",), "model.pixel_mean is 0.1, but ByteFeatureMap looks bytes up"),
        (("--data.dataset=time_series",), "ByteFeatureMap, which takes bytes, and the data are floats"),
    ):
        refused = command("fit", *TEXT_RUN, *words, code=2).stderr
        assert_one_line(refused, message)
    assert len(list((command.folder / "runs/text").iterdir())) == 1


def test_the_table_of_predictions_and_the_network_agree(command):
    run = command.finished(*TEXT_RUN)
    command("predict", f"--ckpt_path={run}", "--output=p.csv")
    rows = [line.split(",") for line in (command.folder / "p.csv").read_text().splitlines()[1:]]
    documents = [line.split("\t") for line in (command.data / "test.txt").read_text().splitlines()]
    assert [row[2] for row in rows] == [label for label, _ in documents]
    network = ttlightning.load(run)
    probabilities = network.predict([text for _, text in documents])
    assert [row[-1] for row in rows] == [f"{p:.6g}" for p in probabilities[:, 1].tolist()]
    one = network.predict(documents[0][1])
    assert one.shape == (1, 2)
    torch.testing.assert_close(one[0], probabilities[0])
    assert network.predict([]).shape == (0, 2)
    with pytest.raises(UserError, match="sequence 1 has 99 values, the network takes 2 to 40"):
        network.predict(["abc", "a" * 99])
    with pytest.raises(UserError, match="no array of numbers"):
        network.predict([np.array(["a", "b"])])
    with pytest.raises(UserError, match=r"sequence 0 is float64 of shape \(2, 3\)|images have shape"):
        network.predict([np.ones((2, 3))])
    with pytest.raises(UserError, match="values from 0 to 7, floats must be"):
        network.predict([1.0, 7.0, 3.0])


def test_the_example_of_the_page():
    page = (Path(__file__).parents[2] / "docs/sequences.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made: dict[str, object] = {}
    exec(block, made)
    assert made["scores"].shape == (3, 2)
    assert made["same"].sites == 20


TS_HEADER = "# a comment\n@problemName Set\n@univariate true\n@classLabel true up down\n@DATA\n"


def test_ts_files_are_the_same_series(tmp_path):
    """Behind the header: values, a colon, the label; ? is a missing value."""
    parts = [(tmp_path / name) for name in ("ts", "tsv")]
    for part in parts:
        part.mkdir()
    texts = "0.5,1,2,?,?:1.0\n1,2,3,4,5:-1\n", "7,8,9,10,NaN:-1\n"
    for end, text in zip(("TRAIN", "TEST"), texts, strict=True):
        (parts[0] / f"Set_{end}.ts").write_text(TS_HEADER + text)
    folder(parts[1], "time_series", *SERIES)
    found = [module(part, "time_series").describe() for part in parts]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3:a\n", "has no line @data"),
        (TS_HEADER, "has no sequences"),
        ("@targetLabel true\n@data\n1,2,3:0.5\n4,5,6:0.7\n", "has targets instead of classes"),
        (TS_HEADER + "1,2,3:a\n1,2,3\n", "line 7: it must be values, a colon and a label"),
        (TS_HEADER + "1,2,3:4,5,6:a\n", "line 6: it has several variables"),
        (TS_HEADER + "(0,1),(1,2),(2,3):a\n", "line 6: it has several variables, or times"),
        (TS_HEADER + "1,?,3:a\n", "line 6: value 2 is nan"),
        (TS_HEADER + "1,x,3:a\n", "line 6: could not convert string to float"),
    ],
)
def test_a_ts_file_that_is_none(tmp_path, text, message):
    for end in ("TRAIN", "TEST"):
        (tmp_path / f"Set_{end}.ts").write_text(text)
    with pytest.raises(UserError, match=message):
        module(tmp_path, "time_series")


def test_a_ts_file_has_words_as_labels(tmp_path):
    for end in ("TRAIN", "TEST"):
        (tmp_path / f"Set_{end}.ts").write_text(TS_HEADER + "1,2,3:up\n4,5,6:down\n")
    assert module(tmp_path, "time_series").class_names == ("down", "up")


LETTERS = "abcdefghijklmnopqrstuvwxyz "


def write_languages(path: Path, classes: int = 8) -> None:
    """Documents of 20 to 200 letters; a class prefers four successors of each letter, which hold in 3 of 5 cases."""
    generator = random.Random(0)
    follows = [{a: random.Random(f"{c}{a}").choices(LETTERS, k=4) for a in LETTERS} for c in range(classes)]
    for part, count in (("train", 2400), ("test", 400)):
        lines = []
        for number in range(count):
            text = "a"
            for _ in range(generator.randint(20, 200)):
                text += generator.choice(follows[number % classes][text[-1]] if generator.random() < 0.6 else LETTERS)
            lines.append(f"c{number % classes}\t{text}.\n")
        (path / f"{part}.txt").write_text("".join(lines))


@pytest.mark.nightly
@pytest.mark.slow
def test_the_recipe_for_text_trains_to_the_end(command, tmp_path):
    """As it is shipped: all its epochs, documents long enough for a chain to die or to explode."""
    write_languages(tmp_path)
    run = command.finished(
        "--config=sequences/text.yaml", f"--data.root={tmp_path}", "--rank_check.every_n_epochs=0", "--figures=false"
    )
    assert Run(run).result["metrics"]["test/acc"] >= 0.9
