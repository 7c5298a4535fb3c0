"""Pixel values of any depth as 8 bits: one rule for the values that stand for black and for white.

The range is, in this order: 8 bits, which stay as they are; `value_range`, where the caller gives
it; the bits per sample that the file states; [0, 1] for floats; and for wider integers the smallest
usual depth (8, 12 or 16 bits) that holds the largest value, because cameras, scanners and libraries
put 8 or 12 bits into 16 or 32. It is guessed once for a data set, whose `Preprocessing` has it from
then on, see `guessed_depth`; a dark image alone would be taken for one of fewer bits. Where fewer
than the container's bits are guessed, a warning says so. Anything else is an error that shows the
way out.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from finetune import arguments
from finetune.wording import counted, warn

Window: TypeAlias = tuple[float, float]
"""Two numbers: the values that become black and white; what is beyond them, too."""
Windows: TypeAlias = Window | tuple[Window, ...]
"""A window for all channels, or one for each of them."""
ValueRange: TypeAlias = Window | list[float] | Sequence[Window | list[float]]
"""The same as people write it."""
Depth: TypeAlias = int
"""So many bits of wider integers are used, as was guessed from a data set."""

_USUAL_DEPTHS = (8, 12, 16)
_WAY_OUT = "pass value_range=(black, white) with the values that they have in these images"
_DIM = 1 << 14
"""Images of 16 bits whose values are all below this are less than a quarter as bright as white."""
_TWICE_DIVIDED = 1.001 / 255  # what rounding in float16 or float32 makes of 1 / 255
_BITS_PER_SAMPLE = 258  # TIFF's tag
_CONTAINERS = (8, 16, 32, 64)


def checked_value_range(value_range: Any, channels: int | None = None) -> Windows | None:
    """The option `value_range` as None, as a window for all channels, or as one for each of them.

    channels: as many windows there must be, if they are several; None leaves that open. The window
    of a single channel is the one for all.

    >>> checked_value_range([0, 4095], 2), checked_value_range([[0, 3000], [-1, 1]], 2)
    ((0.0, 4095.0), ((0.0, 3000.0), (-1.0, 1.0)))
    """
    if value_range is None:
        return None
    if isinstance(value_range, np.ndarray):
        value_range = value_range.tolist()
    if not has_windows(value_range):
        return _checked_window("value_range", value_range)
    windows = []
    for number, window in enumerate(value_range):
        windows.append(_checked_window(f"value_range[{number}]", window))
    if channels is not None and len(windows) != channels:
        raise ValueError(
            f"value_range has {counted(len(windows), 'pair')} for channels={channels}; pass "
            f"channels={len(windows)}, or {counted(channels, 'pair')} (black, white), or one "
            f"(black, white) for all channels, got {arguments.shown(value_range)}"
        )
    return windows[0] if len(windows) == 1 else tuple(windows)


def has_windows(value_range: Any) -> TypeGuard[Sequence[Window]]:
    """Whether there is a window for each channel.

    >>> has_windows([(0, 1), (0, 2)]), has_windows((0, 1)), has_windows(12)
    (True, False, False)
    """
    if not isinstance(value_range, tuple | list):
        return False
    return any(isinstance(entry, tuple | list | np.ndarray) for entry in value_range)


def range_of_channel(
    value_range: ValueRange | Depth | None, number: int
) -> ValueRange | Depth | None:
    """What is known of the values of a channel, of which an image has at least so many."""
    if has_windows(value_range):
        return value_range[number]
    return value_range


def _checked_window(name: str, window: Any) -> Window:
    """name: of the argument, for the error."""
    if isinstance(window, np.ndarray):
        window = window.tolist()
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise TypeError(
            f"{name} must be two numbers (black, white), such as (0, 4095), "
            f"got {arguments.shown(window)}"
        )
    black = arguments.real_number(f"{name}[0]", window[0])
    white = arguments.real_number(f"{name}[1]", window[1])
    if not black < white:
        raise ValueError(f"{name} needs black < white, got {window!r}")
    return black, white


def to_eight_bits(
    values: np.ndarray, value_range: ValueRange | Depth | None = None, bits: int | None = None
) -> np.ndarray:
    """The values as uint8, in the same shape.

    value_range: black and white; or such a pair for each channel, for values [H, W, C]; or the
    depth of the data set, for integers. bits: how many bits of an integer are used, where the file
    states it. Raises ValueError for values whose range is not known, and for another number of
    channels.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "uif":
        raise ValueError(f"an image has whole numbers or floats as pixels, got {values.dtype}")
    if isinstance(value_range, Sequence):
        return _windowed(values, value_range)
    if values.dtype.kind == "f":
        return _floats(values)
    if bits is None:
        bits = value_range
    return _integers(values, bits)


def _windowed(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    windows = np.asarray(value_range, np.float64)  # [2] or [C, 2]
    if windows.ndim == 2 and values.shape[2:] != windows.shape[:1]:
        channels = values.shape[2] if values.ndim == 3 else 1
        raise ValueError(
            f"value_range has {len(windows)} pairs, one for each channel, and the image has "
            f"{counted(channels, 'channel')}"
        )
    black, white = windows.T
    share = (values.astype(np.float64) - black) / (white - black)
    _refuse_nan(share)
    pixels: np.ndarray = np.round(share.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _refuse_nan(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise ValueError(
            "there are pixels that are no numbers (NaN); save it with a number in their place"
        )


def _floats(values: np.ndarray) -> np.ndarray:
    _refuse_nan(values)
    smallest, largest = float(values.min()), float(values.max())
    if smallest < 0 or largest > 1:
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

    A warning says if it is less than 16 bits, or if these are hardly used. None for floats, and for
    values that no usual depth holds: to read such an image will be an error, with its name.
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
    if depth == _USUAL_DEPTHS[-1] and largest < _DIM:
        warn(
            f"there are images of {depth} bits whose largest value is {largest}: {2**depth - 1} "
            f"was taken for white, so that {(largest >> 8) + 1} of 256 levels are left; to see "
            f"more of them, {_WAY_OUT}"
        )
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
