"""Images from files of the user's own: PNG and JPEG, folders of them, and IDX, the format of MNIST."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.datasets.mnist import read_image_file
from torchvision.io import ImageReadMode, read_image

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


def _files(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path} has no pictures: no file that ends in {', '.join(PICTURES)}")
        files += inside
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist; name pictures, folders of them, or files such as those of MNIST")
    return files


def _read(path: Path, channels: int) -> UInt8[Tensor, "samples channels height width"]:
    picture = path.suffix.lower() in PICTURES
    try:
        if picture:
            read = read_image(str(path), ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB).unsqueeze(0)
        else:
            read = read_image_file(str(path)).unsqueeze(1)
    except (RuntimeError, AssertionError, ValueError, IndexError, KeyError, OSError) as fault:
        kind = "picture" if picture else "IDX file of images"
        raise UserError(f"{path} is no {kind}, or is damaged") from fault
    if read.dtype != torch.uint8:
        raise UserError(f"{path} has {read.dtype} pixels; save it with 8 bits for each channel")
    return read
