"""Pictures are read as they show, by training and prediction alike, or refused in a line that names the file."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.io import decode_image

from ttlightning import PatchDataModule, UserError
from ttlightning.data.datasets import read_dataset
from ttlightning.data.folder import PictureFolder
from ttlightning.data.images import read_images
from ttlightning.data.pictures import read_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
COLOURED, GREYS = Image.fromarray(COLOURS), Image.fromarray(GREY)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png(width: int, height: int, depth: int, colours: int, pixels: bytes, **chunks: bytes) -> bytes:
    """A PNG that Pillow would not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    middle = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def turned(image: Image.Image, orientation: int) -> Image.Exif:
    exif = image.getexif()
    exif[0x0112] = orientation
    return exif


def with_alpha(image: Image.Image, alpha: np.ndarray) -> Image.Image:
    whole = image.copy()
    whole.putalpha(Image.fromarray(alpha))
    return whole


OPAQUE = np.full_like(GREY, 255)
BLUE, BROWN = [10, 20, 30], [200, 100, 0]
PALETTE = bytes(BLUE + BROWN)
ORIENTED = {
    2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: GREY[::-1].T, 7: GREY[::-1, ::-1].T,
    8: GREY[:, ::-1].T,
}  # fmt: skip
"""What the grey picture shows under each orientation of EXIF, by its definition: where its first row and column lie."""

SHOWN = {
    "grey": (encoded(GREYS), GREY),
    "colours": (encoded(COLOURED), COLOURS),
    "palette": (png(2, 1, 8, 3, b"\0\1\0", PLTE=PALETTE), np.array([[BROWN, BLUE]])),
    "palette of one bit": (png(3, 1, 1, 3, b"\0\xa0", PLTE=PALETTE), np.array([[BROWN, BLUE, BROWN]])),
    "palette of greys": (encoded(GREYS.convert("P")), GREY),
    "two bits of grey": (png(4, 1, 2, 0, b"\0\x1b"), np.array([[0, 85, 170, 255]])),
    "black and white": (encoded(Image.fromarray(GREY > 99)), 255 * (GREY > 99)),
    "opaque alpha": (encoded(with_alpha(COLOURED, OPAQUE)), COLOURS),
    "opaque alpha of grey": (encoded(with_alpha(GREYS, OPAQUE)), GREY),
    "transparent colour that is nowhere": (encoded(COLOURED, transparency=(1, 2, 3)), COLOURS),
} | {
    f"orientation {number}": (encoded(GREYS, exif=turned(GREYS, number)), shown) for number, shown in ORIENTED.items()
}  # fmt: skip


@pytest.mark.parametrize("what", SHOWN)
def test_a_picture_is_read_as_it_shows(tmp_path, what):
    """Also in a folder of a data set, and as one to predict."""
    content, shown = SHOWN[what]
    expected = torch.from_numpy(np.ascontiguousarray(shown.astype(np.uint8)))
    expected = expected.unsqueeze(0) if expected.ndim == 2 else expected.permute(2, 0, 1)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.png").write_bytes(content)
    assert torch.equal(read_picture(tmp_path / "train/a/x.png"), expected)
    assert torch.equal(read_dataset("image_folder", tmp_path).train.images, torch.stack([expected] * 2))
    assert torch.equal(read_images([tmp_path / "train/a"], tuple(expected.shape)).pixels[0], expected)


def test_jpeg_is_turned_upright_and_otherwise_what_it_was(tmp_path):
    file = tmp_path / "x.jpg"
    for image in (COLOURED, GREYS):
        file.write_bytes(encoded(image, "JPEG"))
        upright = decode_image(str(file))
        assert torch.equal(read_picture(file), upright)
        file.write_bytes(encoded(image, "JPEG", exif=turned(image, 6)))
        assert torch.equal(read_picture(file), upright.rot90(-1, (1, 2)))


def test_only_the_first_picture_of_an_mpo_file_is_read(tmp_path):
    file = tmp_path / "x.jpg"
    file.write_bytes(encoded(COLOURED, "MPO", save_all=True, append_images=[COLOURED.rotate(180)]))
    assert torch.equal(read_picture(file), decode_image(str(file)))


TRANSPARENT, DAMAGED = "is transparent in places", "is no picture, or is damaged"
REFUSED = {
    "alpha": (encoded(with_alpha(COLOURED, GREY)), TRANSPARENT),
    "ink in alpha": (encoded(with_alpha(Image.new("L", (8, 6)), GREY)), TRANSPARENT),
    "ink in the alpha of a palette": (png(2, 1, 8, 3, b"\0\0\1", PLTE=bytes(6), tRNS=b"\xff\0"), TRANSPARENT),
    "transparent colour": (encoded(COLOURED, transparency=tuple(map(int, COLOURS[0, 0]))), TRANSPARENT),
    "transparent grey": (encoded(GREYS, transparency=int(GREY[0, 0])), TRANSPARENT),
    "transparent grey of two bits": (png(4, 1, 2, 0, b"\0\x1b", tRNS=b"\0\3"), TRANSPARENT),
    "CMYK": (encoded(COLOURED.convert("CMYK"), "JPEG"), "has colours of the kind CMYK"),
    "16 bits of grey": (encoded(Image.fromarray(GREY.astype(np.uint16))), "has 16 bits for each channel"),
    "16 bits of colour": (png(1, 1, 16, 2, bytes(7)), "has 16 bits for each channel"),
    "16 bits of alpha": (png(1, 1, 16, 4, b"\0" + b"\xff" * 4), "has 16 bits for each channel"),
    "animation": (encoded(GREYS, save_all=True, append_images=[GREYS.rotate(180)]), "is animated, 2 pictures in one"),
    "palette too short": (png(2, 1, 8, 3, b"\0\0\5", PLTE=PALETTE), "is damaged: it has colours that are not in its"),
    "no palette": (png(2, 1, 8, 3, b"\0\0\1"), "is damaged"),
    "no width": (png(0, 4, 8, 0, b""), DAMAGED),
    "no height": (png(4, 0, 8, 0, b""), DAMAGED),
    "no bytes": (b"", DAMAGED),
    "cut off": (encoded(COLOURED)[:100], DAMAGED),
    "text": (b"not a picture", DAMAGED),
    "large": (png(10_000, 10_000, 8, 0, b""), "is too large for a picture"),
    "a telephone's": (bytes([0, 0, 0, 24]) + b"ftypheic" + bytes(12), "is of the format HEIF"),
    "huge": (png(20_000, 20_000, 8, 0, b""), "is too large for a picture"),
} | {
    kind: (encoded(COLOURED, kind), f"is of the format {kind}; only PNG and JPEG are read")
    for kind in ("GIF", "WEBP", "BMP", "TIFF")
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_ambiguous_pictures_are_refused(tmp_path, what):
    content, message = REFUSED[what]
    file = tmp_path / "x.png"
    file.write_bytes(content)
    for read in (read_picture, lambda path: read_images([path], (3, 6, 8))):
        with pytest.raises(UserError, match=message) as refused:
            read(file)
        assert str(file) in str(refused.value)


@given(
    place=st.integers(0, 10_000), bit=st.integers(0, 7), kind=st.sampled_from(["colours", "palette", "orientation 6"])
)
def test_a_flipped_bit_of_a_png_never_shows_another_picture(tmp_path_factory, place, bit, kind):
    content = bytearray(SHOWN[kind][0])
    file = tmp_path_factory.getbasetemp() / "x.png"
    file.write_bytes(content)
    whole = read_picture(file)
    content[place % len(content)] ^= 1 << bit
    file.write_bytes(content)
    try:
        assert torch.equal(read_picture(file), whole)
    except UserError as refused:
        assert str(file) in str(refused)  # noqa: PT017 (either is right)


def test_colours_for_a_network_of_grey(tmp_path):
    """Their luma; what was saved as RGB and is grey stays as it is."""
    COLOURED.save(tmp_path / "a.png")
    GREYS.convert("RGB").save(tmp_path / "b.png")
    found = read_images([tmp_path], (1, 6, 8)).pixels
    assert torch.equal(found[1, 0], torch.from_numpy(GREY.copy()))
    luma = (COLOURS * np.array([0.299, 0.587, 0.114])).sum(-1)
    assert np.abs(found[0, 0].numpy() - luma).max() <= 0.51


def test_the_content_says_what_a_file_is(tmp_path):
    (tmp_path / "picture").write_bytes(encoded(GREYS))
    (tmp_path / "x.jpg").write_bytes(encoded(GREYS))
    for name in ("picture", "x.jpg"):
        assert torch.equal(read_images([tmp_path / name], (1, 6, 8)).pixels[0, 0], torch.from_numpy(GREY.copy()))


def put(root: Path, name: str) -> Path:
    """A picture under ``root``, a folder where the name ends in a slash."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("/"):
        file.mkdir()
    else:
        file.write_bytes(encoded(GREYS))
    return file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/a/y.gif", "y.gif is neither PNG nor JPEG by its name: convert it"),
        ("train/a/y.png/", "y.png is called like a picture and is no file"),
        ("test/b/inner/", "inner is a folder inside that of a class"),
        ("train/y.png", "y.png lies beside the folders of the classes"),
        ("train/c/y.png", "has pictures of class c in train only"),
        ("test/c/y.png", "has pictures of class c in test only"),
    ],
)
def test_unexpected_files_in_a_folder_are_refused(tmp_path, name, message):
    for place in ("train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/x.png"):
        put(tmp_path, place)
    put(tmp_path, "train/a/.hidden.png")
    (tmp_path / "train/a/notes.txt").write_text("no picture")
    assert len(read_dataset("image_folder", tmp_path).train.images) == 2
    put(tmp_path, name)
    with pytest.raises(UserError, match=message):
        read_dataset("image_folder", tmp_path)


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    file = put(tmp_path, "x.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"y.png is called like a picture and is no file"):
        read_images([tmp_path], (1, 6, 8))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    for read in (read_picture, lambda path: read_images([path], (1, 6, 8))):
        with pytest.raises(UserError, match=r"x.png cannot be read: Permission denied"):
            read(file)


def test_names_that_are_no_utf8_are_refused(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(encoded(GREYS))
    with pytest.raises(UserError, match=r"caf\\xe9.png is no name in UTF-8") as refused:
        read_images([tmp_path], (1, 6, 8))
    str(refused.value).encode()
    for part in ("train", "test"):
        (tmp_path / part / "b").mkdir(parents=True)
        (tmp_path / part / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(UserError, match="is no name in UTF-8"):
        read_dataset("image_folder", tmp_path)


def test_names_of_classes_are_the_same_on_any_file_system(tmp_path):
    """One keeps an accent beside its letter, another in it."""
    for place in ("train/a/x.png", "train/e\u0301/x.png", "test/a/x.png", "test/e\u0301/x.png"):
        put(tmp_path, place)
    assert PatchDataModule("image_folder", tmp_path, patch_size=2).class_names == ("a", "\u00e9")


def test_pictures_that_no_memory_can_hold(tmp_path):
    folder = PictureFolder(tmp_path, ["a"], put(tmp_path, "train/a/x.png"), (3, 10**8, 10**8))
    with pytest.raises(
        UserError, match=r"train: 27939677.2 GiB of images and as much of patches do not fit .* set TTLIGHTNING_CACHE"
    ):
        folder.read("train")


def test_a_data_root_may_have_any_name(tmp_path):
    for place in ("train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/x.png"):
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), place)
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert PatchDataModule("image_folder", root, patch_size=2).class_names == ("a", "b")
