"""The user's pictures as a data set: a folder for each class, ROOT/train/<class>/ and ROOT/test/<class>/.

Classes are numbered in the order of their names; samples are sorted by class, then by file name. The first picture
determines the size of all pictures, and whether they are grey or coloured. A grey picture among coloured ones becomes
RGB; an RGB picture of grey pixels among grey ones becomes grey; a coloured picture among grey ones is an error.
Pictures beside the folders of the classes, and folders inside these, are errors: nothing is left out silently.
"""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ttlightning.data.cache import Part, check_memory
from ttlightning.data.pictures import PICTURES, Picture, Pictures, is_grey, pictures_in, read_picture, with_channels
from ttlightning.data.reading import check_name, entries, is_folder, listing
from ttlightning.data.rows import BLOCK
from ttlightning.errors import UserError


@dataclass(frozen=True)
class PictureFolder:
    """A folder before its pictures are read.

    ``classes`` are the sorted names of the class folders, ``first`` is the first training picture, ``shape`` its
    (channels, height, width), with 1 channel for grey and 3 for colour.
    """

    root: Path
    classes: list[str]
    first: Path
    shape: tuple[int, int, int]

    def names(self) -> tuple[str, ...]:
        """Names of the classes in Unicode form NFC; file systems differ in the form of accents."""
        return tuple(unicodedata.normalize("NFC", name) for name in self.classes)

    def read(self, part: str) -> tuple[Pictures, Int[Tensor, " samples"]]:
        """All pictures of one part, and their labels.

        Raises:
            UserError: a damaged picture, another size or colour than the first picture, a class without pictures, more
                than fits in memory.
        """
        labels, blocks = self.part(part)
        check_memory(len(labels) * math.prod(self.shape), self.root / part)
        images, at = torch.empty(len(labels), *self.shape, dtype=torch.uint8), 0
        for block in blocks:
            images[at : at + len(block)] = block
            at += len(block)
        return images, labels

    def part(self, part: str) -> Part:
        """The labels of one part, and its pictures a block at a time; errors as of ``read``."""
        files = [_pictures_of_a_class(self.root / part / name) for name in self.classes]
        labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(pictures) for pictures in files]))
        return Part(labels, self._blocks([file for pictures in files for file in pictures]))

    def files(self) -> list[Path]:
        """All pictures of both parts."""
        return [f for part in ("train", "test") for name in self.classes
                for f in _pictures_of_a_class(self.root / part / name)]  # fmt: skip

    def _blocks(self, files: list[Path]) -> Iterator[Pictures]:
        rows = max(1, BLOCK // math.prod(self.shape))
        for start in range(0, len(files), rows):
            yield torch.stack([self._like_the_first(read_picture(f), f) for f in files[start : start + rows]])

    def _like_the_first(self, picture: Picture, file: Path) -> Picture:
        channels, height, width = self.shape
        if picture.shape[1:] != (height, width):
            raise UserError(
                f"{file} is {picture.shape[2]} pixels wide and {picture.shape[1]} high, but {self.first} is {width} by "
                f"{height}: bring all pictures to one size"
            )
        if len(picture) > channels and not is_grey(picture):
            raise UserError(
                f"{file} is coloured, but {self.first} is grey: save all pictures as grey, or that one as RGB"
            )
        return with_channels(picture, channels)


def look_into(root: Path) -> PictureFolder:
    """Classes, size and colour of the pictures under ``root``.

    Raises:
        UserError: missing folders, classes that differ between the parts, an unreadable first picture.
    """
    train, test = (_class_folders(root / part) for part in ("train", "test"))
    if train != test:
        name = min(set(train) ^ set(test))
        raise UserError(
            f"{root} has pictures of class {name} in {'train' if name in train else 'test'} only: both parts need a "
            "folder for each class"
        )
    if len(train) < 2:
        raise UserError(f"{root / 'train'} has {len(train)} folders, it must have one for each of two or more classes")
    first = _pictures_of_a_class(root / "train" / train[0])[0]
    channels, height, width = read_picture(first).shape
    return PictureFolder(root, train, first, (channels, height, width))


def _class_folders(part: Path) -> list[str]:
    if not is_folder(part):
        raise UserError(
            f"data set image_folder: there is no folder {part}; name with --data.root the folder that has "
            "train/<class>/ and test/<class>/"
        )
    inside = entries(part)
    loose = sorted(path for path in inside if path.suffix.lower() in PICTURES and not path.is_dir())
    if loose:
        raise UserError(f"{loose[0]} lies beside the folders of the classes: move it into its class's, or away")
    folders = [path for path in inside if path.is_dir()]
    for path in folders:
        check_name(path, path.name)
    return sorted(path.name for path in folders)


def _pictures_of_a_class(folder: Path) -> list[Path]:
    inner = [name for name, is_folder, _ in listing(folder) if is_folder and not name.lower().endswith(PICTURES)]
    if inner:
        raise UserError(f"{folder / inner[0]} is a folder inside that of a class; pictures must lie in {folder} itself")
    return pictures_in(folder)
