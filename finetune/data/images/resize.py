"""Resizing: from an upright image to the size that the model's input is cut from."""

from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageOps

from finetune.image_size import ImageSize, height_and_width

Resize: TypeAlias = Literal["crop", "squish", "pad"]
RESIZE_METHODS: tuple[Resize, ...] = get_args(Resize)
"""How an image gets the shape of the model's input, see `presize`."""


def presize(image: Image.Image, size: ImageSize, method: Resize = "crop") -> np.ndarray:
    """Resizes an image to a square, or to another height and width: uint8 [height, width, 3].

    Of a grey image it is [height, width].

    method: "crop" makes the image just large enough to cover that, so the shorter side of what
    becomes a square, and takes the middle; "squish" resizes each side for itself; "pad" makes the
    image as large as fits in, and fills up with black.
    """
    height, width = height_and_width(size)
    if method == "crop":
        resized = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    elif method == "pad":
        resized = _padded(image, height, width)
    else:
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized, dtype=np.uint8)


def presize_whole(image: Image.Image, side: int, margin: int) -> np.ndarray:
    """Resizes an image such that its shorter side becomes `side`: uint8 [height, width, 3].

    margin: so many pixels beyond either end of the middle square are kept, if there are as many.
    The middle square is, to the bit, that of `presize` with "crop".
    """
    square = presize(image, side)
    beyond = _pixels_beyond(image, side, margin)
    if beyond == 0:
        return square
    long_side, short_side = max(image.size), min(image.size)
    scale = short_side / side
    square_start, square_end = (long_side - short_side) / 2, (long_side + short_side) / 2
    # rounding must not lead out of the image
    start = max(square_start - beyond * scale, 0)
    end = min(square_end + beyond * scale, long_side)
    is_wide = image.width > image.height
    # each end by itself, because resizing all at once would round the middle square differently
    ends = []
    for first, last in ((start, square_start), (square_end, end)):
        size, box = (side, beyond), (0.0, first, float(short_side), last)
        if is_wide:
            size, box = (beyond, side), (first, 0.0, last, float(short_side))
        ends.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR, box)))
    return np.concatenate([ends[0], square, ends[1]], axis=1 if is_wide else 0)


def whole_size(image: Image.Image, side: int, margin: int) -> tuple[int, int]:
    """Height and width of what `presize_whole` gives."""
    long_side = side + 2 * _pixels_beyond(image, side, margin)
    return (side, long_side) if image.width > image.height else (long_side, side)


def _pixels_beyond(image: Image.Image, side: int, margin: int) -> int:
    """How many pixels there are beyond either end of the middle square, at most `margin`."""
    long_side, short_side = max(image.size), min(image.size)
    # in whole numbers, since for a square a rounded quotient may be less than nothing
    return min(margin, (long_side - short_side) * side // (2 * short_side))


def _padded(image: Image.Image, height: int, width: int) -> Image.Image:
    """The whole image in the middle of black; at least one row or column of pixels."""
    padded = Image.new(image.mode, (width, height))
    # of the two sides one fits exactly: that which is longer, compared with the frame's
    resized_height, resized_width = height, width
    if image.width * height > image.height * width:
        resized_height = max(1, round(image.height / image.width * width))
    else:
        resized_width = max(1, round(image.width / image.height * height))
    resized = image.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    left, top = round((width - resized_width) / 2), round((height - resized_height) / 2)
    padded.paste(resized, (left, top))
    return padded
