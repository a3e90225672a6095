"""Images from the user's files: PNG and JPEG, folders of pictures, and IDX, the format of MNIST."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ttlightning.data.idx import idx_of, is_idx
from ttlightning.data.pictures import PICTURES, Pictures, pictures_in, read_picture, with_channels
from ttlightning.data.reading import check_name, is_folder, read_file
from ttlightning.errors import UserError


class Images(NamedTuple):
    """Images and their sources."""

    pixels: Pictures
    sources: list[tuple[Path, int]]
    """File, and index in the file."""


def read_images(paths: Sequence[Path], shape: tuple[int, int, int]) -> Images:
    """Images in files and folders, in the order of the paths, inside a folder by name.

    Pictures are read like training pictures. For one channel, colours become their luma; for three channels, grey
    becomes a colour. Brightness is not inverted: MNIST's digits are bright on dark.

    Args:
        shape: channels, height and width that the network was trained for.

    Raises:
        UserError: a missing or damaged file, images of another size, a folder without pictures, a name that is not
            UTF-8.
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
    if not sources:
        raise UserError(f"there is no image in {', '.join(map(str, paths)) or 'an empty list'}")
    return Images(torch.cat(pixels), sources)


def _files(paths: Sequence[Path]) -> list[Path]:
    files = [file for path in paths for file in (pictures_in(path) if is_folder(path) else [path])]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist; name pictures, folders of them, or files such as those of MNIST")
        check_name(file, str(file))
    return files


def _read(path: Path, channels: int) -> Pictures:
    if path.suffix.lower() not in PICTURES and is_idx(content := read_file(path)):
        return idx_of(content, path, 3).unsqueeze(1).expand(-1, channels, -1, -1)
    return with_channels(read_picture(path), channels).unsqueeze(0)
