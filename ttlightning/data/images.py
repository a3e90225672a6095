"""Images from files of the user's own: PNG and JPEG, folders of them, and IDX, the format of MNIST."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets.mnist import read_image_file
from torchvision.io import ImageReadMode, decode_image

from ttlightning.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg")


class Images(NamedTuple):
    """Images and where each comes from."""

    pixels: UInt8[Tensor, "samples channels height width"]
    sources: list[tuple[Path, int]]
    """file, and the place in it"""


def read_images(paths: Sequence[Path], shape: tuple[int, int, int]) -> Images:
    """The images in files and folders, in the order of the paths, in a folder by name.

    PNG and JPEG become grey where ``shape`` has one channel and RGB where it has three. They are taken as they are:
    MNIST's digits are bright on a dark ground.

    Args:
        shape: channels, height and width that the network was trained for.

    Raises:
        UserError: a file that is not there, is damaged, or has images of another size; a folder without pictures.
    """
    pixels, sources = [], []
    for path in _files(paths):
        read = _read(path, shape[0])
        if tuple(read.shape[1:]) != shape:
            height, width = read.shape[2:]
            raise UserError(
                f"{path} is {width} pixels wide and {height} high; the network was trained for {shape[2]} by {shape[1]}"
            )
        pixels.append(read)
        sources += [(path, index) for index in range(len(read))]
    return Images(torch.cat(pixels), sources)


def pictures_in(folder: Path) -> list[Path]:
    """The PNG and JPEG files in a folder, by name, hidden ones left out; ``UserError`` where there are none."""
    inside = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if not inside:
        raise UserError(f"{folder} has no pictures: no file that ends in {', '.join(PICTURES)}")
    return inside


def read_picture(path: Path, mode: ImageReadMode = ImageReadMode.UNCHANGED) -> UInt8[Tensor, "channels height width"]:
    """The picture in a PNG or JPEG file; ``UserError`` where it is damaged or has more than 8 bits for a channel."""
    try:
        read = decode_image(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), mode)
    except (RuntimeError, ValueError, OSError) as fault:
        raise UserError(f"{path} is no picture, or is damaged") from fault
    return _with_8_bits(read, path)


def _files(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        files += pictures_in(path) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist; name pictures, folders of them, or files such as those of MNIST")
    return files


def _read(path: Path, channels: int) -> UInt8[Tensor, "samples channels height width"]:
    if path.suffix.lower() in PICTURES:
        return read_picture(path, ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB).unsqueeze(0)
    try:
        read = read_image_file(str(path)).unsqueeze(1)
    except (RuntimeError, AssertionError, ValueError, IndexError, KeyError, OSError) as fault:
        raise UserError(f"{path} is no IDX file of images, or is damaged") from fault
    return _with_8_bits(read, path)


def _with_8_bits(read: Tensor, path: Path) -> UInt8[Tensor, "*shape"]:
    if read.dtype != torch.uint8:
        raise UserError(f"{path} has {read.dtype} pixels; save it with 8 bits for each channel")
    return read
