"""IDX files of whoever made them: plain, gzipped, in any of the usual places; what is wrong with one is said."""

import gzip
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import write_idx
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.datasets.utils import calculate_md5

from ttlightning import UserError
from ttlightning.data.datasets import fetch_dataset, read_dataset
from ttlightning.data.idx import idx_of
from ttlightning.data.images import read_images

FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def no_download(monkeypatch):
    def download(self):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(MNIST, "download", download)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "mnist", ".", "fashion-mnist", "Fashion_MNIST/raw"])
@pytest.mark.parametrize("kind", ["plain", "gzip", "some of both", "dots"])
def test_the_files_wherever_they_are(tmp_path, write_mnist, place, kind):
    """The same content has the same hash, whichever way it is kept."""
    name = "fashion_mnist" if "fashion" in place.lower() else "mnist"
    whole = read_dataset("mnist", write_mnist(tmp_path / "whole"))
    folder = tmp_path / "own" / place
    folder.mkdir(parents=True)
    for number, file in enumerate(FILES):
        content = (tmp_path / "whole/MNIST/raw" / file).read_bytes()
        if kind == "gzip" or (kind == "some of both" and number % 2):
            (folder / f"{file}.gz").write_bytes(gzip.compress(content, compresslevel=1 + number))
        else:
            (folder / (file.replace("-idx", ".idx") if kind == "dots" else file)).write_bytes(content)
    fetch_dataset(name, tmp_path / "own")
    assert read_dataset(name, tmp_path / "own").sha256() == whole.sha256()


def test_a_folder_named_after_another_data_set_is_ignored(tmp_path, write_mnist):
    raw = write_mnist(tmp_path, "FashionMNIST") / "FashionMNIST" / "raw"
    for root in (raw, raw.parent, tmp_path):
        with pytest.raises(UserError, match="mnist is not under"):
            read_dataset("mnist", root)
        assert len(read_dataset("fashion_mnist", root).train.labels) == 200


def test_files_of_another_data_set_are_known_by_their_checksum(tmp_path, write_mnist, monkeypatch):
    raw = write_mnist(tmp_path / "whole") / "MNIST/raw"
    folder = tmp_path / "downloads"
    folder.mkdir()
    for file in FILES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((raw / file).read_bytes()))
    sums = [(f"{file}.gz", calculate_md5(folder / f"{file}.gz")) for file in FILES]
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    assert len(read_dataset("fashion_mnist", folder).train.labels) == 200
    with pytest.raises(UserError, match=r"ubyte.gz is of the data set fashion_mnist, and not of mnist"):
        read_dataset("mnist", folder)


def damaged(content: bytes, damage: str) -> bytes:
    begin = 4 + 4 * content[3]
    return {
        "truncated": content[: len(content) // 2],
        "in the header": content[:6],
        "empty": b"",
        "garbage": b"x" * len(content),
        "trailing": content + b"!",
        "floats": content[:2] + b"\x0d" + content[3:],
        "dimensions": content[:3] + b"\x02" + content[4:],
        "gzip cut off": gzip.compress(content)[:-20],
        "gzip checksum": gzip.compress(content)[:-8] + bytes(8),
        "gzip bomb": gzip.compress(content + bytes(10**7)),
        "gzip trailing": gzip.compress(content) + b"!",
        "nothing in it": content[:4] + bytes(4) + content[8:begin],
    }[damage]


DAMAGE = {
    "truncated": "is truncated: [0-9,]+ bytes, and [0-9,]+ by its header",
    "in the header": "is truncated: 6 bytes, and",
    "empty": "is no IDX file",
    "garbage": "is no IDX file",
    "trailing": "is damaged: 1 bytes follow",
    "floats": "has values of the IDX type 0x0d; it must be 0x08",
    "dimensions": "has 2 dimensions, it must have [31]",
    "gzip cut off": "is damaged or truncated: ",
    "gzip checksum": "is damaged or truncated: ",
    "gzip bomb": "is damaged: 1 bytes follow",
    "gzip trailing": "is damaged or truncated: ",
    "nothing in it": "and .* have (0 images and 200|200 images and 0) labels",
}


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("part", [FILES[0], FILES[1]])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_never_replaced_by_a_fallback(tmp_path, write_mnist, part, damage):
    file = write_mnist(tmp_path) / "MNIST" / "raw" / part
    file.write_bytes(damaged(file.read_bytes(), damage))
    kept = file.read_bytes()
    fetch_dataset("mnist", tmp_path, offline_fallback="mnist5k")
    with pytest.raises(UserError, match=rf"{re.escape(str(file.parent))}.*{DAMAGE[damage]}") as refused:
        read_dataset("mnist", tmp_path, offline_fallback="mnist5k")
    assert "delete" not in str(refused.value)
    assert file.read_bytes() == kept


def test_labels_that_are_no_classes(tmp_path, write_mnist):
    file = write_mnist(tmp_path) / "MNIST/raw" / FILES[1]
    write_idx(file, 1 + np.arange(200) % 10)
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte has labels from 1 to 10, they must be 0 to 9"):
        read_dataset("mnist", tmp_path)


def test_labels_of_another_part_and_images_of_another_size(tmp_path, write_mnist):
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    shutil.copy(raw / FILES[3], raw / FILES[1])
    with pytest.raises(UserError, match="have 200 images and 50 labels"):
        read_dataset("mnist", tmp_path)
    write_idx(raw / FILES[0], np.zeros((50, 20, 30)))
    with pytest.raises(UserError, match="images 30 pixels wide and 20 high, expected 28 by 28"):
        read_dataset("mnist", tmp_path)


def test_a_download_does_not_write_over_own_files(tmp_path, write_mnist, monkeypatch):
    """Three files of one's own, and one that is missing; what a download has left behind it may go on with."""
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    (raw / FILES[3]).unlink()
    asked = []

    def download(self):
        asked.append(self.root)
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", download)
    own = f"has {FILES[0]}(.gz)? and no {FILES[3]}: put it there too, or name another folder with --data.root"
    for _ in range(2):
        with pytest.raises(UserError, match=own):
            fetch_dataset("mnist", tmp_path, offline_fallback="mnist5k")
        for file in FILES[:3]:  # the same, compressed by whoever it was
            if (raw / file).exists():
                (raw / f"{file}.gz").write_bytes(gzip.compress((raw / file).read_bytes()))
                (raw / file).unlink()
    assert asked == []
    for file in FILES[1:3]:
        (raw / f"{file}.gz").unlink()
    (raw / f"{FILES[0]}.gz").write_bytes((raw / f"{FILES[0]}.gz").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot be downloaded \(no network\)"):
        fetch_dataset("mnist", tmp_path)
    assert asked == [tmp_path]


def test_idx_files_to_predict(tmp_path):
    """Plain or gzipped, called anything, for networks of one channel and of three."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    write_idx(tmp_path / "plain", pixels)
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    for name in ("plain", "packed"):
        for channels in (1, 3):
            found = read_images([tmp_path / name], (channels, 4, 5))
            assert torch.equal(found.pixels, torch.from_numpy(pixels).unsqueeze(1).expand(-1, channels, -1, -1))
            assert found.sources == [(tmp_path / name, index) for index in range(3)]
    write_idx(tmp_path / "none", pixels[:0])
    with pytest.raises(UserError, match="there is no image in"):
        read_images([tmp_path / "none"], (1, 4, 5))


@given(content=st.binary(max_size=60), packed=st.booleans(), place=st.integers(0, 99), bit=st.integers(0, 7))
def test_any_bytes_are_read_or_refused(content, packed, place, bit):
    """What is read is as long as its header says; a flipped bit of a compressed file is refused, or changes nothing."""
    whole = bytes([0, 0, 8, 1, 0, 0, 0, len(content)]) + content
    assert idx_of(whole, "x", 1).tolist() == list(content)
    flipped = bytearray(gzip.compress(whole) if packed else content)
    if flipped:
        flipped[place % len(flipped)] ^= 1 << bit
    try:
        found = idx_of(bytes(flipped), "x", 1)
    except UserError as refused:
        assert str(refused).startswith("x ")  # noqa: PT017 (either is right)
    else:
        assert found.tolist() == (list(content) if packed else list(flipped[8:]))
