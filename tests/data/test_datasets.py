"""Data sets: torchvision's files, small and in the same format; what is corrupt and what is absent."""

import pickle
import re

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.utils import calculate_md5

from ttlightning import PatchDataModule, UserError
from ttlightning.data.datasets import fetch_dataset, read_dataset


@pytest.fixture
def no_network(monkeypatch):
    """torchvision's download code runs and its request fails, as on a machine without network."""
    from urllib.error import URLError

    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", fail)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files(tmp_path, write_mnist, name, folder):
    data = read_dataset(name, write_mnist(tmp_path, folder))
    assert data.name == name
    assert data.train.images.shape == (200, 1, 28, 28)
    assert data.train.images.dtype == torch.uint8
    assert data.test.labels.shape == (50,)
    raw = (tmp_path / folder / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.test.images.numpy().tobytes() == raw


def test_cifar10_files(tmp_path, monkeypatch):
    """torchvision checks the MD5 of the real files: the test puts that of its own small ones in their place."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    written = []
    for attribute, names in lists.items():
        for name in names:
            pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
            written.append(pixels)
        monkeypatch.setattr(CIFAR10, attribute, [(name, calculate_md5(folder / name)) for name in names])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": calculate_md5(folder / "batches.meta")})
    data = read_dataset("cifar10", tmp_path)
    assert data.train.images.shape == (20, 3, 32, 32)
    assert torch.equal(data.test.images.flatten(1), torch.from_numpy(written[-1]))
    (folder / "test_batch").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"cifar10.*corrupt"):
        read_dataset("cifar10", tmp_path)


def test_mnist5k_needs_nothing(tmp_path):
    data = read_dataset("mnist5k", tmp_path)
    assert data.train.labels.bincount().tolist() == [400] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert data.train.images.shape == (4000, 1, 28, 28)
    assert data.train.images.max() == 255


def test_the_hash_is_of_the_content_and_not_of_the_path(tmp_path, write_mnist):
    first = read_dataset("mnist", write_mnist(tmp_path / "a"))
    second = read_dataset("mnist", write_mnist(tmp_path / "b"))
    assert first.sha256() == second.sha256()
    second.test.labels[0] += 1
    assert first.sha256() != second.sha256()


@pytest.mark.parametrize("part", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_files_are_named_and_never_replaced_by_a_fallback(tmp_path, write_mnist, part, damage):
    file = write_mnist(tmp_path) / "MNIST" / "raw" / part
    content = file.read_bytes()
    file.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * len(content)}[damage])
    fetch_dataset("mnist", tmp_path, offline_fallback="mnist5k")
    with pytest.raises(UserError, match=rf"mnist.*{re.escape(str(tmp_path / 'MNIST'))} is corrupt or truncated"):
        read_dataset("mnist", tmp_path, offline_fallback="mnist5k")


def test_labels_of_another_file(tmp_path, write_mnist):
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    (raw / "train-labels-idx1-ubyte").write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(UserError, match="200 images and 50 labels"):
        read_dataset("mnist", tmp_path)


@pytest.mark.usefixtures("no_network")
def test_absent_without_fallback(tmp_path):
    with pytest.raises(
        UserError, match=r"mnist is not under .* cannot be downloaded .*--data.offline_fallback mnist5k"
    ):
        fetch_dataset("mnist", tmp_path)
    with pytest.raises(UserError, match="mnist is not under"):
        read_dataset("mnist", tmp_path)


@pytest.mark.usefixtures("no_network")
def test_absent_with_fallback(tmp_path):
    with pytest.warns(UserWarning, match="using mnist5k instead, and recording dataset: mnist5k"):
        fetch_dataset("mnist", tmp_path, offline_fallback="mnist5k")
    assert read_dataset("mnist", tmp_path, offline_fallback="mnist5k").name == "mnist5k"


def test_the_download_is_torchvisions(tmp_path, write_mnist, monkeypatch):
    """What is absent is asked for from torchvision, once; what is there is not asked for."""
    calls = []

    def download(self):
        calls.append(self.root)
        if not self._check_exists():
            write_mnist(tmp_path)

    monkeypatch.setattr(MNIST, "download", download)
    for _ in range(2):
        fetch_dataset("mnist", tmp_path)
    assert calls == [tmp_path]
    assert len(read_dataset("mnist", tmp_path).train.labels) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "minst"}, "'minst', it must be one of mnist, fashion_mnist"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"patch_size": 5}, "does not tile"),
        ({"dataset": "cifar10", "patch_size": 8, "offline_fallback": "mnist5k"}, "offline_fallback is mnist5k"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        PatchDataModule(**options)


def test_the_data_module(tmp_path, write_mnist):
    data = PatchDataModule("mnist", write_mnist(tmp_path), patch_size=14, validation=0.1, batch_size=50)
    assert (data.sites, data.patch_dim, data.classes) == (4, 196, 10)
    data.prepare_data()
    data.setup("fit")
    described = data.describe()
    assert (described["train"], described["validation"], described["test"]) == (180, 20, 50)
    batches = list(data.train_dataloader())
    assert [len(b.labels) for b in batches] == [50, 50, 50, 30]
    assert batches[0].patches.shape == (50, 4, 196)
    every = {bytes(p.numpy().tobytes()) for b in batches for p in b.patches}
    held_out = {bytes(p.numpy().tobytes()) for b in data.val_dataloader() for p in b.patches}
    test = {bytes(p.numpy().tobytes()) for b in data.test_dataloader() for p in b.patches}
    assert not every & held_out
    assert not test & (every | held_out)
    assert len(every | held_out) == 200
