"""The cache gives what the files hold, notices every change of them and of itself, and is made once."""

import gzip
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import assert_one_line
from torchvision.datasets import CIFAR10

from ttlightning import PatchDataModule, UserError
from ttlightning.data import cache, folder, idx
from ttlightning.data.augmentation import Augmentation
from ttlightning.data.datasets import read_dataset
from ttlightning.data.rows import Rows

KINDS = ("mnist", "gzip", "image_folder", "cifar10")
SMALL = ("--config", "debug.yaml", "--data.dataset", "mnist", "--data.batch_size=24")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Sets the cache's folder, and does not wait until files are old."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path, write_mnist, write_pictures, monkeypatch):
    """Writes the files of a data set; its name and its root."""

    def write(kind: str):
        root = tmp_path / "source"
        if kind == "image_folder":
            return kind, write_pictures(root)
        if kind == "cifar10":
            monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
            monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
            (root / "cifar-10-batches-py").mkdir(parents=True)
            generator = np.random.default_rng(0)
            for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
                entry = {"data": generator.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
                (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(entry))
            return kind, root
        write_mnist(root)
        if kind == "gzip":
            for file in (root / "MNIST/raw").iterdir():
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
                file.unlink()
        return "mnist", root

    return write


@pytest.fixture
def reads_nothing(monkeypatch):
    """From when it is called on, no picture and no IDX file can be read."""

    def forbid():
        def read(*_):
            raise AssertionError("it is in the cache")

        monkeypatch.setattr(folder.PictureFolder, "_blocks", read)
        monkeypatch.setattr(idx, "_blocks", read)

    return forbid


def same(one, other) -> bool:
    pairs = ((getattr(one, part), getattr(other, part)) for part in ("train", "test"))
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3000, 1 << 24])
def test_the_cache_has_what_the_files_have(monkeypatch, stored, source, kind, block):
    """In blocks of a sample, of some, and of all; its hash is that of the data in memory."""
    for module in (folder, idx):
        monkeypatch.setattr(module, "BLOCK", block)
    name, root = source(kind)
    monkeypatch.delenv(cache.VARIABLE)
    in_memory = read_dataset(name, root)
    monkeypatch.setenv(cache.VARIABLE, str(stored))
    made, found = read_dataset(name, root), read_dataset(name, root)
    assert same(made, in_memory)
    assert same(found, in_memory)
    assert made.stored == found.stored == in_memory.sha256() == found.sha256()
    assert sorted(path.name for path in stored.iterdir()) == sorted([made.stored, "sources"])
    again = read_dataset(name, root, anew=True)
    assert same(again, in_memory)


@pytest.mark.parametrize("kind", ["mnist", "image_folder"])
def test_files_are_read_once_and_again_when_one_has_changed(stored, source, reads_nothing, monkeypatch, kind):
    """Also one whose size and time are as they were."""
    name, root = source(kind)
    first = read_dataset(name, root)
    file = root / {"mnist": "MNIST/raw/train-images-idx3-ubyte", "image_folder": "train/ant/00.jpg"}[kind]
    content, state = file.read_bytes(), file.stat()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_make", lambda *_: pytest.fail("it is there"))
        assert same(read_dataset(name, root), first)
    is_idx = kind == "mnist"
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if is_idx else (file.parent / "01.jpg").read_bytes())
    if is_idx:
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    second = read_dataset(name, root)
    assert second.stored != first.stored
    assert not torch.equal(second.train.images, first.train.images)
    file.write_bytes(content)
    assert read_dataset(name, root).stored == first.stored  # the entry is still there
    reads_nothing()
    assert read_dataset(name, root).stored == first.stored


def images_of(stored, sha):
    return stored / sha / "train-images.npy"


def flip(file, keeps_time: bool) -> None:
    content, state = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    if keeps_time:
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


DAMAGE = {
    "cut off": (lambda file: os.truncate(file, 1000), "is not complete"),
    "absent": (lambda file: file.unlink(), "is not complete"),
    "another byte": (lambda file: flip(file, keeps_time=False), "has another hash"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_wrong_entry_is_made_again(stored, source, what):
    damage, message = DAMAGE[what]
    name, root = source("mnist")
    first = read_dataset(name, root).stored
    content = images_of(stored, first).read_bytes()
    damage(images_of(stored, first))
    with pytest.warns(UserWarning, match=message):
        assert read_dataset(name, root).stored == first
    assert images_of(stored, first).read_bytes() == content


def test_reading_anew_checks_every_byte(stored, source):
    """A byte that changed without a trace, as by a disk's fault, is seen by `rerun`, not by a start."""
    name, root = source("mnist")
    file = images_of(stored, read_dataset(name, root).stored)
    content = file.read_bytes()
    flip(file, keeps_time=True)
    read_dataset(name, root)
    assert file.read_bytes() != content
    with pytest.warns(UserWarning, match="has another hash"):
        read_dataset(name, root, anew=True)
    assert file.read_bytes() == content


def test_a_copy_of_the_cache_is_hashed_once(stored, source, monkeypatch):
    name, root = source("mnist")
    read_dataset(name, root)
    shutil.copytree(stored, stored.with_name("copy"), copy_function=shutil.copyfile)
    monkeypatch.setenv(cache.VARIABLE, str(stored.with_name("copy")))
    hashes = []
    original = cache.ImageDataset.sha256
    monkeypatch.setattr(cache.ImageDataset, "sha256", lambda self: hashes.append(1) or original(self))
    read_dataset(name, root)
    read_dataset(name, root)
    assert len(hashes) == 1


def test_what_a_killed_process_left_is_replaced(stored, source, monkeypatch):
    """Killed while it writes: nothing is taken for an entry, and the next start makes one."""
    name, root = source("mnist")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_json", lambda *_: os._exit(9))
        child = os.fork()
        if not child:
            read_dataset(name, root)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    [left] = stored.glob("*.partial")
    assert (left / "test-labels.npy").exists()
    made = read_dataset(name, root)
    assert sorted(path.name for path in stored.iterdir()) == sorted([made.stored, "sources"])


def test_many_that_start_at_once_read_the_files_once(stored, source, monkeypatch):
    name, root = source("image_folder")
    made = []
    original = cache._make
    monkeypatch.setattr(cache, "_make", lambda *inputs: made.append(1) or original(*inputs))
    with ThreadPoolExecutor(6) as pool:
        found = {data.stored for data in pool.map(lambda _: read_dataset(name, root), range(6))}
    assert len(found) == len(made) == 1


def test_files_that_change_while_they_are_read(stored, source, monkeypatch):
    name, root = source("mnist")
    original = idx._blocks

    def blocks(path, sizes):
        yield from original(path, sizes)
        path.touch()

    monkeypatch.setattr(idx, "_blocks", blocks)
    with pytest.raises(UserError, match="changed while they were read: start again"):
        read_dataset(name, root)
    assert [path.name for path in stored.iterdir()] == ["sources"]
    assert not list((stored / "sources").iterdir())


def test_a_recent_file_is_read_when_its_time_is_over(stored, source, monkeypatch):
    name, root = source("mnist")
    slept = []
    monkeypatch.setattr(cache, "SETTLED", 100.0)
    monkeypatch.setattr(cache.time, "sleep", slept.append)
    read_dataset(name, root)
    assert 90 < slept[0] <= 100


def test_a_cache_that_cannot_be_written(stored, source, monkeypatch):
    name, root = source("mnist")
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 10))
        with pytest.raises(UserError, match=r"has 0.0 GiB free of 0.0 needed"):
            read_dataset(name, root)
    monkeypatch.setenv(cache.VARIABLE, str(root / "MNIST/raw/t10k-labels-idx1-ubyte"))
    with pytest.raises(UserError, match=r"TTLIGHTNING_CACHE is .*, which cannot be written: "):
        read_dataset(name, root)


@pytest.mark.parametrize("content", ["cut off", "trailing"])
def test_damaged_files_leave_no_entry(stored, source, content):
    name, root = source("mnist")
    file = root / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes() + b"!" if content == "trailing" else file.read_bytes()[:-1])
    with pytest.raises(
        UserError, match="is truncated: 156,815 bytes, and 156,816" if content == "cut off" else "bytes follow"
    ):
        read_dataset(name, root)
    assert [path.name for path in stored.iterdir()] == ["sources"]


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(shift=1, rotation=10)])
@pytest.mark.parametrize("kind", ["mnist", "image_folder"])
def test_batches_are_those_of_data_in_memory(stored, source, monkeypatch, kind, augmentation):
    name, root = source(kind)
    loaders = []
    for folder_name in ("", str(stored)):
        monkeypatch.setenv(cache.VARIABLE, folder_name)
        data = PatchDataModule(
            name, root, patch_size=4, order="snake", batch_size=5, validation=0.3, augmentation=augmentation, seed=3,
            evaluation_batch_size=4,
        )  # fmt: skip
        data.prepare_data()
        data.setup("fit")
        assert isinstance(data.test_dataloader().patches, Rows) == bool(folder_name)
        names = ("train_dataloader", "val_dataloader", "test_dataloader", "unaugmented_dataloader")
        loaders.append([batch for each in names for batch in getattr(data, each)()] + [data.some_patches(7)])
        loaders[-1].append(json.dumps(data.describe()))
    assert loaders[0].pop() == loaders[1].pop()
    assert torch.equal(loaders[0].pop(), loaders[1].pop())
    assert len(loaders[0]) == len(loaders[1]) > 3
    for one, other in zip(*loaders, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--data.augmentation.shift=1", "--data.steps_per_execution=4"), marks=pytest.mark.slow)],
)
def test_a_fit_from_the_cache(command, rerun_in_this_process, monkeypatch, options):
    """It trains the network of a fit in memory; is killed and goes on; is run again, tested, and predicts."""
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    command.finished(*SMALL, *options)
    command.environment[cache.VARIABLE] = str(command.folder / "cache")
    command.killed(3, "fit", *SMALL, *options)
    command("fit", "--ckpt_path=runs/debug/1")
    assert command.result("debug/1")["weights_sha256"] == command.result("debug/0")["weights_sha256"]
    assert command.result("debug/1")["metrics"] == command.result("debug/0")["metrics"]
    records = [json.loads((command.folder / f"runs/debug/{n}/provenance.json").read_text()) for n in (0, 1)]
    assert records[0]["dataset"] == records[1]["dataset"]
    if options:
        return
    assert "bitwise identical" in command("rerun", "runs/debug/0").stdout
    command("test", "--ckpt_path=runs/debug/1")
    command("predict", "--ckpt_path=runs/debug/1", "--output=cache.csv")
    command.environment[cache.VARIABLE] = ""
    command("predict", "--ckpt_path=runs/debug/1", "--output=memory.csv")
    assert (command.folder / "cache.csv").read_bytes() == (command.folder / "memory.csv").read_bytes()


@pytest.mark.slow
def test_pictures_are_said_to_be_read_once(command, write_pictures, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    write_pictures(command.folder / "insects")
    small = ("--config=debug.yaml", "--data.dataset=image_folder", "--data.root=insects", "--data.patch_size=4")
    command("fit", *small)
    command.environment[cache.VARIABLE] = "cache"
    said = [command("fit", *small).stdout.count("reading     the pictures") for _ in range(2)]
    assert said == [1, 0]
    assert len({command.result(f"debug/{n}")["weights_sha256"] for n in range(3)}) == 1
    command.environment[cache.VARIABLE] = "insects/train/ant/00.jpg"
    assert_one_line(command("fit", *small, code=2).stderr, "TTLIGHTNING_CACHE is ")


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_share_the_cache(command):
    options = (*SMALL, "--data.microbatches=2", "--trainer.accelerator=cpu")
    command.finished(*options)
    command.process(
        "fit",
        *options,
        "--trainer.strategy=ddp",
        "--trainer.devices=2",
        TTLIGHTNING_CACHE=str(command.folder / "cache"),
    )
    assert command.result("debug/1")["weights_sha256"] == command.result("debug/0")["weights_sha256"]
    assert len(list((command.folder / "cache").iterdir())) == 2
