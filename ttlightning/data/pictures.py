"""Pictures: PNG or JPEG by content, upright, opaque, 8 bits for a channel, one channel (grey) or three (RGB).

Pictures for training and for prediction are read by the same function. Ambiguous pictures are errors: colours that
depend on a profile (CMYK), transparency, several pictures in a file.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ttlightning.data.reading import listing, read_file
from ttlightning.errors import UserError

Picture = UInt8[Tensor, "channels height width"]
Pictures = UInt8[Tensor, "samples channels height width"]

PICTURES: Final = (".png", ".jpg", ".jpeg")
OTHERS: Final = (".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jfif", ".jpe", ".ppm", ".pgm")
"""Endings of pictures that are not read; a folder that has one is an error."""

MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Accepted modes of Pillow: black and white, grey, palette, RGB; A is transparency."""

PNG: Final = b"\x89PNG\r\n\x1a\n"
LUMA: Final = (19595, 38470, 7471)
"""Shares of red, green and blue in grey, in 1/65536 [ITU-R BT.601]."""

_DAMAGE: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, AttributeError),
    *(struct.error, zlib.error, MemoryError),
)
"""Exceptions that Pillow raises on damaged content."""


def read_picture(path: Path) -> Picture:
    """The picture in a file, turned as its EXIF says, with palette colours looked up; one channel if all are grey.

    Raises:
        UserError: a file that is unreadable, neither PNG nor JPEG, damaged, too large, animated, transparent, or has
            more than 8 bits for a channel, or colours other than grey and RGB.
    """
    content = read_file(path)
    depth = content[24] if content.startswith(PNG) and len(content) > 24 else 8
    image = _load(content, path)
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{path} is animated, {image.n_frames} pictures in one: save the one that is meant")
    if depth == 16:
        raise UserError(f"{path} has 16 bits for each channel; save it with 8 bits for each channel")
    if image.mode not in MODES:
        raise UserError(f"{path} has colours of the kind {image.mode}; save it as grey or RGB")
    if image.mode == "P" and image.getextrema()[1] >= len(image.getpalette() or ()) // 3:
        raise UserError(f"{path} is damaged: it has colours that are not in its palette")
    unscaled = image.mode == "L" and depth < 8  # Pillow scales all grey values but the transparent one
    if image.has_transparency_data and (unscaled or image.convert("RGBA").getchannel("A").getextrema() != (255, 255)):
        raise UserError(f"{path} is transparent in places, and shows what lies below; save it without transparency")
    if image.mode in ("1", "L", "LA"):
        return torch.from_numpy(np.array(image.convert("L"))).unsqueeze(0)
    picture = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    return picture[:1] if image.mode in ("P", "PA") and is_grey(picture) else picture


def is_grey(picture: Picture) -> bool:
    """Whether red, green and blue are the same everywhere."""
    return bool((picture == picture[:1]).all())


def with_channels(picture: Picture, channels: int) -> Picture:
    """Grey to RGB, or RGB to its luma, grey = (19595 R + 38470 G + 7471 B) / 65536, rounded."""
    if len(picture) <= channels:
        return picture.expand(channels, -1, -1)
    if is_grey(picture):
        return picture[:1]
    weighted = picture.int() * torch.tensor(LUMA, dtype=torch.int32).reshape(3, 1, 1)
    return ((weighted.sum(0, keepdim=True) + 0x8000) >> 16).to(torch.uint8)


def pictures_in(folder: Path) -> list[Path]:
    """The PNG and JPEG files in a folder by name, without hidden files.

    Raises:
        UserError: no picture, a picture's name that is no file, or pictures of another format.
    """
    inside = [entry for entry in listing(folder) if entry.name.lower().endswith((*PICTURES, *OTHERS))]
    for name, _, is_file in inside:
        if not is_file:
            raise UserError(f"{folder / name} is called like a picture and is no file; move it away, or mend the link")
        if name.lower().endswith(OTHERS):
            raise UserError(
                f"{folder / name} is neither PNG nor JPEG by its name: convert it, or move it out of {folder}"
            )
    if not inside:
        raise UserError(f"{folder} has no pictures: no file that ends in {', '.join(PICTURES)}")
    return [folder / name for name, _, _ in inside]


def _load(content: bytes, path: Path) -> Image.Image:
    """The picture, decoded and upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if content.startswith(PNG):  # decoding alone does not check the checksums of the pixels
                Image.open(io.BytesIO(content), formats=["PNG"]).verify()
            image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG"])
            ImageOps.exif_transpose(image, in_place=True)
            return image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as fault:
        raise UserError(f"{path} is too large for a picture: {fault}") from fault
    except UnidentifiedImageError as fault:
        kind = _kind_of(content)
        what = f"is of the format {kind}; only PNG and JPEG are read: convert it" if kind else _NO_PICTURE
        raise UserError(f"{path} {what}") from fault
    except _DAMAGE as fault:
        raise UserError(f"{path} {_NO_PICTURE}") from fault


def _kind_of(content: bytes) -> str | None:
    """Pillow's name of another picture format; None if it is unknown."""
    try:
        kind = Image.open(io.BytesIO(content)).format
    except (*_DAMAGE, Image.DecompressionBombError):
        return "HEIF" if content[4:8] == b"ftyp" else None  # from a telephone; Pillow has no reader
    return kind if kind not in ("PNG", "JPEG") else None


_NO_PICTURE: Final = "is no picture, or is damaged"
