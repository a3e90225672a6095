"""Data sets: torchvision's files, small and in the same format; what is corrupt and what is absent."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.utils import calculate_md5
from torchvision.io import ImageReadMode, decode_image, write_jpeg, write_png

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


@pytest.mark.parametrize(("name", "centres"), [("moons", [(0, 0), (1, 0.5)]), ("circles", [(0, 0), (0, 0)])])
def test_points(tmp_path, name, centres):
    """Each lies near its class's curve: an upper and a lower half circle, or an outer and an inner whole one."""
    data = read_dataset(name, tmp_path)
    assert data.name == name
    for part in (data.train, data.test):
        assert (part.images.shape, part.images.dtype) == ((2000, 1, 2, 1), torch.float32)
        assert part.labels.bincount().tolist() == [1000, 1000]
        for label, centre in enumerate(centres):
            radii = (part.images[part.labels == label].flatten(1) - torch.tensor(centre)).norm(dim=1)
            assert radii.median() == pytest.approx(0.5 if (name, label) == ("circles", 1) else 1.0, abs=0.02)
            assert 0.08 < radii.std() < 0.12
    assert not torch.equal(data.train.images, data.test.images)
    assert read_dataset(name, tmp_path).sha256() == data.sha256()


def test_a_folder_of_pictures(tmp_path, write_pictures):
    root = write_pictures(tmp_path)
    (root / "train" / "bee" / "notes.txt").write_text("no picture")
    (root / "train" / "ant" / ".hidden.jpg").write_bytes(b"")
    (root / "train" / ".cache").mkdir()
    data = read_dataset("image_folder", root)
    assert data.name == "image_folder"
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    files = [file for name in ("ant", "bee", "cat") for file in sorted((root / "test" / name).iterdir())]
    assert torch.equal(data.test.images, torch.stack([decode_image(str(file)) for file in files]))
    module = PatchDataModule("image_folder", root, patch_size=4)
    assert (module.sites, module.patch_dim, module.classes) == (4, 48, 3)


def test_grey_pictures_of_a_folder(tmp_path, write_pictures):
    """All grey is one channel; one that is grey among coloured ones shows the same colour, one saved as RGB among grey
    ones the same grey."""
    root = write_pictures(tmp_path / "grey", classes=("ant", "bee"))
    for file in root.rglob("*.*"):
        write_png(decode_image(str(file), ImageReadMode.GRAY), str(file.with_suffix(".png")))
        if file.suffix != ".png":
            file.unlink()
    grey = read_dataset("image_folder", root)
    Image.fromarray(grey.train.images[5, 0].numpy()).convert("RGB").save(root / "train/bee/01.png")
    assert read_dataset("image_folder", root).sha256() == grey.sha256()
    assert grey.train.images.shape == (8, 1, 8, 8)
    root = write_pictures(tmp_path / "mixed", classes=("ant", "bee"))
    Image.fromarray(grey.train.images[1, 0].numpy()).save(root / "train/ant/01.jpg", format="png")
    images = read_dataset("image_folder", root).train.images
    assert torch.equal(images[1], grey.train.images[1].expand(3, 8, 8))


FAULTS = {
    "no test": "there is no folder .*test; name with --data.root",
    "one class": "has 1 folders, it must have one for each of two or more",
    "empty": "bee has no pictures",
    "size": "02.png is 9 pixels wide and 8 high, but .*ant.00.jpg is 8 by 8",
    "colour": "01.jpg is coloured, but .*ant.00.jpg is grey",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_that_cannot_be_read(tmp_path, write_pictures, fault):
    root = write_pictures(tmp_path, classes=("ant",) if fault == "one class" else ("ant", "bee"))
    if fault == "no test":
        (root / "test").rename(root / "elsewhere")
    elif fault == "empty":
        for picture in (root / "test/bee").iterdir():
            picture.unlink()
    elif fault == "size":
        write_png(torch.zeros(3, 8, 9, dtype=torch.uint8), str(root / "train/bee/02.png"))
    elif fault == "colour":
        write_jpeg(torch.zeros(1, 8, 8, dtype=torch.uint8), str(root / "train/ant/00.jpg"))
    with pytest.raises(UserError, match=FAULTS[fault]):
        read_dataset("image_folder", root)


def test_a_fallback_must_have_the_same_images_and_classes(tmp_path, write_pictures):
    with pytest.raises(UserError, match=r"mnist5k, which has 10 classes of \(1, 28, 28\).* has 3 of \(3, 8, 8\)"):
        PatchDataModule("image_folder", write_pictures(tmp_path), patch_size=4, offline_fallback="mnist5k")


def test_the_hash_is_of_the_content_and_not_of_the_path(tmp_path, write_mnist):
    first = read_dataset("mnist", write_mnist(tmp_path / "a"))
    second = read_dataset("mnist", write_mnist(tmp_path / "b"))
    assert first.sha256() == second.sha256()
    second.test.labels[0] += 1
    assert first.sha256() != second.sha256()


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


def test_a_fallback_of_another_kind_is_refused():
    with pytest.raises(UserError, match="offline_fallback is mnist5k"):
        PatchDataModule("cifar10", patch_size=8, offline_fallback="mnist5k")


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


@pytest.mark.parametrize(
    ("share", "message"),
    [(0.999, "of 200 training samples that is 200, which leaves none to train on; use 0, or 0.005 to 0.99"),
     (0.002, "of 200 training samples that is 0, which leaves none to validate on")],
)  # fmt: skip
def test_a_validation_share_that_leaves_nothing(tmp_path, write_mnist, share, message):
    """Refused where there is to be validation; the test set does not depend on it."""
    data = PatchDataModule("mnist", write_mnist(tmp_path), patch_size=14, validation=share)
    for stage in ("fit", "validate"):
        with pytest.raises(UserError, match=f"data.validation is {share}, {message}"):
            data.setup(stage)
    data.setup("test")
    assert data.describe()["test"] == 50


def test_the_home_folder_in_the_data_root(tmp_path, write_mnist, monkeypatch):
    monkeypatch.setenv("HOME", str(write_mnist(tmp_path / "home/data").parent))
    monkeypatch.setenv("TTLIGHTNING_DATA", "~/data")
    for root in (None, Path("~/data")):
        data = PatchDataModule("mnist", root, patch_size=14)
        data.setup("fit")
        assert data.root == tmp_path / "home/data"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setenv("TTLIGHTNING_DATA", "~nobody-of-that-name/data")
    with pytest.raises(UserError, match="~ has no home folder here"):
        PatchDataModule("mnist", patch_size=14)


def test_names_of_classes(tmp_path, write_mnist, write_pictures):
    """Those of a folder are in the checkpoint and in the record of the data, and others are refused."""
    insects = PatchDataModule("image_folder", write_pictures(tmp_path / "a"), patch_size=4)
    insects.setup("fit")
    assert insects.class_names == ("ant", "bee", "cat")
    assert insects.describe()["classes"] == ["ant", "bee", "cat"]
    state = insects.state_dict()
    insects.load_state_dict(state)
    insects.check_classes({}, "older")
    others = PatchDataModule("image_folder", write_pictures(tmp_path / "b", ("ant", "bee", "cow")), patch_size=4)
    with pytest.raises(UserError, match="trained on other classes: number 2 is 'cat' there and 'cow' in the data here"):
        others.load_state_dict(state)
    with pytest.raises(UserError, match=r"x.ckpt was trained on other classes"):
        others.check_classes({"PatchDataModule": state}, "x.ckpt")
    digits = PatchDataModule("mnist", write_mnist(tmp_path / "c"), patch_size=14)
    digits.setup("fit")
    assert digits.class_names == tuple("0123456789")
    assert "classes" not in digits.describe()
    digits.check_classes({"PatchDataModule": {"classes": list("0123456789")}}, "a folder of digits")
