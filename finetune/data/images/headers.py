"""The header of an image: its size and format, without decoding it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.images.decode import read_bands, read_image
from finetune.data.images.opening import ImageError, ImageSource, Opened, file_name, opened
from finetune.data.images.packed import PackedImage
from finetune.data.images.tiff import TiffImage
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
    try:
        source = items[number]
    except ImageError as error:
        return Header(error=error)
    except Exception as error:  # of a data set of the user's
        return Header(error=ImageError(f"image {number}", f"{error} ({type(error).__name__})"))
    name = file_name(source)
    try:
        if decode and channels == 3:
            read_image(source, value_range=value_range)
        elif decode:
            read_bands(source, channels, value_range=value_range)
        with opened(source) as image:
            width, height = _upright_size(image)
            if name is None:
                return Header(width, height, "in memory", width * height)
            return Header(width, height, _format(image), _bytes(source))
    except ImageError as error:
        return Header(error=ImageError(name or f"image {number}", error.reason))


def _upright_size(image: Opened) -> tuple[int, int]:
    """Width and height of the upright image, in pixels."""
    if isinstance(image, np.ndarray):
        height, width, *_ = image.shape
        return width, height
    if isinstance(image, TiffImage):
        return image.size
    width, height = image.size
    # only for JPEG: to ask an image of another format for its EXIF would decode it
    if image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
        return height, width
    return width, height


def _format(image: Opened) -> str:
    if isinstance(image, np.ndarray):
        return "NumPy"
    return "TIFF" if isinstance(image, TiffImage) else str(image.format)


def _bytes(source: ImageSource) -> int:
    """The size of a file."""
    if isinstance(source, PackedImage):
        return source.content_size()
    assert isinstance(source, str | Path)
    return os.path.getsize(source)
