"""The header of an image: its size and format, without decoding it."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.data.images.decode import (
    ImageError,
    ImageSource,
    check_size,
    file_name,
    read_bands,
    read_image,
    stored_array,
)
from finetune.data.images.shards import ShardImage
from finetune.data.images.value_range import Depth, ValueRange

_ORIENTATION = 0x0112
"""EXIF's tag for how an image has to be turned to be upright."""
_QUARTER_TURNS = (5, 6, 7, 8)
"""Values of that tag which swap width and height."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image without decoding it.

    width, height: of the upright image, in pixels. format: PIL's name of the file format, or "in
    memory". bytes: size of the file; width times height for an image in memory. error: why the
    image can't be read; then the other fields are empty.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    bytes: int = 0
    error: ImageError | None = None


def read_header(
    items: Sequence[ImageSource],
    number: int,
    decode: bool = False,
    value_range: ValueRange | Depth | None = None,
    channels: int = 3,
) -> Header:
    """Reads the header of one of the images. An image that can't be read gives `Header.error`.

    number: the image's position in `items`. decode: decode the image as well, to find out whether
    that is possible. value_range, channels: see `read_image` and `read_bands`.
    """
    name = f"image {number}"
    try:
        source = items[number]
        name = file_name(source) or name
        if decode and channels == 3:
            read_image(source, value_range=value_range)
        elif decode:
            read_bands(source, channels, value_range=value_range)
        array = stored_array(source)
        if array is not None:
            width, height = _size_in_memory(array)
            return Header(width, height, "NumPy", array.nbytes)
        if isinstance(source, str | Path):
            return _file_header(source, os.path.getsize(source))
        if isinstance(source, ShardImage):
            return _file_header(io.BytesIO(source.content()), source.size)
        width, height = _size_in_memory(source)
        return Header(width, height, "in memory", width * height)
    except ImageError as error:
        return Header(error=error)
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        return Header(error=ImageError(name, f"{error} ({type(error).__name__})"))


def _file_header(file: str | Path | BinaryIO, size: int) -> Header:
    """size: of the file in bytes."""
    with Image.open(file) as image:
        check_size(image)
        width, height = image.size
        # only for JPEG: to ask an image of another format for its EXIF would decode it
        if image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
            width, height = height, width
        return Header(width, height, str(image.format), size)


def _size_in_memory(source: ImageSource) -> tuple[int, int]:
    """Width and height of an image in memory, in pixels."""
    if isinstance(source, Image.Image):
        return source.size
    if isinstance(source, Tensor):
        return source.shape[-1], source.shape[-2]
    if not isinstance(source, np.ndarray):  # the content of a file
        return read_image(source).size
    height, width, *_ = source.shape
    return width, height
