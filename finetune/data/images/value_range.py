"""Pixel values of any depth as 8 bits: one rule for the values that stand for black and for white.

The range is, in this order: 8 bits, which stay as they are; `value_range`, where the caller gives
it; the bits per sample that the file states; [0, 1] for floats; and for wider integers the smallest
usual depth (8, 12 or 16 bits) that holds the largest value, because cameras, scanners and libraries
put 8 or 12 bits into 16 or 32. It is guessed once for a data set, whose `Preprocessing` has it from
then on, see `guessed_depth`; a dark image alone would be taken for one of fewer bits. Where fewer
than the container's bits are guessed, a warning says so. Anything else is an error that shows the
way out.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from finetune import arguments
from finetune.wording import warn

ValueRange: TypeAlias = tuple[float, float] | list[float]
"""Two numbers: the values that become black and white; what is beyond them, too."""
Depth: TypeAlias = int
"""So many bits of wider integers are used, as was guessed from a data set."""

_USUAL_DEPTHS = (8, 12, 16)
_WAY_OUT = "pass value_range=(black, white) with the values that they have in these images"
_TWICE_DIVIDED = 1.001 / 255  # what rounding in float16 or float32 makes of 1 / 255
_BITS_PER_SAMPLE = 258  # TIFF's tag
_CONTAINERS = (8, 16, 32, 64)


def checked_value_range(value_range: Any) -> tuple[float, float] | None:
    """The option `value_range` as None, or as two numbers of which the first is smaller."""
    if value_range is None:
        return None
    if isinstance(value_range, np.ndarray):
        value_range = value_range.tolist()
    if not isinstance(value_range, tuple | list) or len(value_range) != 2:
        raise TypeError(
            "value_range must be two numbers (black, white), such as (0, 4095), "
            f"got {value_range!r}"
        )
    black = arguments.real_number("value_range[0]", value_range[0])
    white = arguments.real_number("value_range[1]", value_range[1])
    if not black < white:
        raise ValueError(f"value_range needs black < white, got {value_range!r}")
    return black, white


def to_eight_bits(
    values: np.ndarray, value_range: ValueRange | Depth | None = None, bits: int | None = None
) -> np.ndarray:
    """The values as uint8, in the same shape.

    value_range: black and white; or the depth of the data set, for integers. bits: how many bits
    of an integer are used, where the file states it. Raises ValueError for values whose range is
    not known.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "uif":
        raise ValueError(f"an image has whole numbers or floats as pixels, got {values.dtype}")
    if isinstance(value_range, tuple | list):
        return _windowed(values, *value_range)
    if values.dtype.kind == "f":
        return _floats(values)
    if bits is None:
        bits = value_range
    return _integers(values, bits)


def _windowed(values: np.ndarray, black: float, white: float) -> np.ndarray:
    share = (values.astype(np.float64) - black) / (white - black)
    if np.isnan(share).any():
        raise ValueError("there are pixels that are no numbers (NaN)")
    pixels: np.ndarray = np.round(share.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _floats(values: np.ndarray) -> np.ndarray:
    smallest, largest = float(values.min()), float(values.max())
    # written so that NaN is refused, too
    if not (smallest >= 0 and largest <= 1):
        raise ValueError(
            "floating point images must lie in [0, 1], where 1 is white, got "
            f"{smallest:.4g} to {largest:.4g}; leave out normalising, which comes later, or "
            f"{_WAY_OUT}"
        )
    if 0 < largest <= _TWICE_DIVIDED:
        raise ValueError(
            f"floating point pixels of at most {largest:.2g}, where 1 is white, are black: were "
            f"they divided by 255 twice? divide once, or {_WAY_OUT}"
        )
    pixels: np.ndarray = np.round(values * 255).astype(np.uint8)
    return pixels


def _integers(values: np.ndarray, bits: int | None) -> np.ndarray:
    smallest, largest = int(values.min()), int(values.max())
    if bits is None or smallest < 0 or largest >= 1 << bits:
        bits = _smallest_depth(smallest, largest)
        _say_depth(bits, largest, values.dtype)
    pixels: np.ndarray = (values >> max(bits - 8, 0)).astype(np.uint8)
    return pixels


def guessed_depth(images: Iterable[np.ndarray]) -> Depth | None:
    """The smallest usual depth that holds all values of a sample of images of more than 8 bits.

    A warning says if it is less than 16 bits. None for floats, and for values that no usual depth
    holds: to read such an image will be an error, with its name.
    """
    extrema = []
    for values in images:
        if values.dtype.kind in "ui" and values.size:
            extrema.append((int(values.min()), int(values.max()), values.dtype))
    if not extrema:
        return None
    smallest = min(low for low, _, _ in extrema)
    largest = max(high for _, high, _ in extrema)
    if smallest < 0 or largest >= 1 << _USUAL_DEPTHS[-1]:
        return None
    depth = _smallest_depth(smallest, largest)
    _say_depth(depth, largest, extrema[0][2])
    return depth


def _smallest_depth(smallest: int, largest: int) -> int:
    """The smallest usual depth that holds the values."""
    if smallest < 0 or largest >= 1 << _USUAL_DEPTHS[-1]:
        raise ValueError(
            f"pixel values outside 16 bits, from {smallest} to {largest}, have no known range; "
            f"{_WAY_OUT}"
        )
    return next(depth for depth in _USUAL_DEPTHS if largest < 1 << depth)


def _say_depth(bits: int, largest: int, dtype: np.dtype) -> None:
    """A warning, unless the values fill a 16-bit type or say nothing."""
    if bits < _USUAL_DEPTHS[-1] and largest > 0:
        warn(
            f"there are images of {8 * dtype.itemsize}-bit numbers that fill {bits} bits only: "
            f"{2**bits - 1} was taken for white; if it is not, {_WAY_OUT}"
        )


def stated_bits(image: Any) -> int | None:
    """The bits per sample that an opened file states, if they are less than its container has."""
    if image.format == "PPM":
        return 16  # Pillow stretches the values to 16 bits
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    bits = tags.get(_BITS_PER_SAMPLE)
    if not bits:
        return None
    depth = int(max(bits)) if isinstance(bits, tuple) else int(bits)
    # 16 says how wide the container is, not how much of it is used
    return None if depth in _CONTAINERS else depth
