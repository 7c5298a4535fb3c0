"""The header of an image: its size and format, without decoding it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.data.images.decode import ImageError, ImageSource, check_size, read_image

_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values for images that are turned by a quarter."""


@dataclass(frozen=True, slots=True)
class Header:
    """width, height: upright, in pixels. bytes: of the file, or in memory."""

    width: int = 0
    height: int = 0
    format: str = ""
    bytes: int = 0
    error: ImageError | None = None


def read_header(items: Sequence[ImageSource], number: int, decode: bool = False) -> Header:
    """The header of a file, or what an image in memory says of itself.

    decode: find out whether it can be decoded, too.
    """
    name = f"image {number}"
    try:
        source = items[number]
        if isinstance(source, str | Path):
            name = str(source)
        if decode:
            read_image(source)
        if isinstance(source, str | Path):
            return _of_file(source)
        width, height = _size_in_memory(source)
        return Header(width, height, "in memory", width * height)
    except ImageError as error:
        return Header(error=error)
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        return Header(error=ImageError(name, f"{error} ({type(error).__name__})"))


def _of_file(path: str | Path) -> Header:
    with Image.open(path) as image:
        check_size(image)
        width, height = image.size
        # to ask an image of another format would decode it
        if image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
            width, height = height, width
        return Header(width, height, str(image.format), os.path.getsize(path))


def _size_in_memory(source: ImageSource) -> tuple[int, int]:
    if isinstance(source, Image.Image):
        return source.size
    if isinstance(source, Tensor):
        return source.shape[-1], source.shape[-2]
    height, width, *_ = np.asarray(source).shape
    return width, height
