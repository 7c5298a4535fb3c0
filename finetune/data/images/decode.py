"""Decoding: from a file or an image in memory to an upright RGB image.

It handles every colour mode, the rotation that EXIF states, and scaled decoding of JPEG files.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from finetune.data.images.opening import ImageError, ImageSource, Opened, image_name, opened
from finetune.data.images.tiff import TiffImage, beyond_pillow, is_derived_page
from finetune.data.images.value_range import (
    Depth,
    ValueRange,
    has_windows,
    range_of_channel,
    stated_bits,
    to_eight_bits,
)
from finetune.wording import counted

# PIL's names of modes with more than 8 bits: "I" has 32, "F" are floats
_WIDE = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

_EXTRA_SAMPLES = 338
"""TIFF's tag that says what bands beyond the colours mean."""

_DARK = 16
"""An image of 12 bits in 16 has upper bytes below this."""

_SIXTEEN_BITS = (0, 65535)
"""The window whose levels are those of the upper 8 of 16 bits."""


def read_image(
    source: ImageSource,
    *,
    min_side: int | None = None,
    value_range: ValueRange | Depth | None = None,
) -> Image.Image:
    """Reads an image as an upright one in mode RGB.

    source: a path (JPEG, PNG, WebP, BMP, GIF, TIFF; the first frame of several; .npy), a member of
    a shard, a PIL image, an array [H, W], [H, W, 1 | 3 | 4] or a tensor [1 | 3 | 4, H, W], whole
    numbers or floats; the bytes of a file, an open file, or {"bytes": ...} or {"path": ...}. What
    is open already is read by one thread at a time. Transparent parts become white. Of files with
    16 bits in several channels, Pillow reads the upper 8; of TIFF files all, with tifffile.
    min_side: the shorter side, in pixels, that is fine enough; a JPEG file is then decoded at a
    fraction of its size, which is faster. Other formats are always decoded in full. value_range:
    the values that become black and white in images of more than 8 bits, or such a pair for each
    of three channels, or how many bits of integers are used; None finds them, see
    `value_range.py`.
    Raises ImageError with the path and the reason.
    """
    with opened(source) as opened_image:
        image = _pillow_or_values(opened_image, value_range, bands=False)
        if isinstance(image, np.ndarray):
            return _upright_rgb(_to_pil(image, value_range), None)
        is_of_caller = image is source
        if min_side is not None and image.format == "JPEG" and not is_of_caller:
            image.draft("RGB", (min_side, min_side))
        return _upright_rgb(image, value_range, in_place=not is_of_caller)


def read_bands(
    source: ImageSource,
    channels: int,
    *,
    value_range: ValueRange | Depth | None = None,
) -> list[Image.Image]:
    """Reads an image of any number of channels: for each of them an upright image in mode "L".

    One channel is the grey of any image that `read_image` takes. Other numbers need a source that
    has them: an array [H, W, C], a tensor [C, H, W], a .npy file with such an array; a file with as
    many bands, such as red, green, blue and a fourth one; or a TIFF of as many pages, each a grey
    image. TIFF files with more bands, or with more bits in them, need tifffile. value_range: see
    `read_image`; for all channels, or a pair for each.
    Raises ImageError as `read_image` does, and for another number of channels.
    """
    if channels == 1:
        return [read_image(source, value_range=value_range).convert("L")]
    with opened(source) as opened_image:
        image = _pillow_or_values(opened_image, value_range, bands=True)
        count = _channel_count(image)
        if count != channels:
            reason = f"it has {counted(count, 'channel')}, not channels={channels}"
            raise ImageError(image_name(source), reason + _where_channels_are(image))
        if isinstance(image, np.ndarray):
            return _bands_of_array(image, value_range)
        return _bands_of_image(image, value_range)


def holds_more(image: Image.Image) -> bool:
    """Whether an opened file holds more than 8 bits of the channels that its mode has.

    Or further channels: bands of a TIFF file, or pages of one.
    """
    if _is_cut_to_eight_bits(image) or image.mode in _WIDE:
        return True
    has_more_bands = beyond_pillow(image, bands=True, all_bits=True) is not None
    return has_more_bands or (image.format == "TIFF" and len(_pages(image)) > 1)


def wide_values(source: ImageSource, channels: int = 3) -> np.ndarray | None:
    """The values of an image of more than 8 bits, if nothing says how many of them are used.

    channels: that will be read, see `read_bands`. Of a file with 8 bits only the header is read.
    None for what can't be read, too.
    """
    bands = channels not in (1, 3)
    try:
        with opened(source) as opened_image:
            image = _pillow_or_values(opened_image, None, bands=bands)
            if isinstance(image, np.ndarray):
                return None if image.dtype == np.uint8 else image
            return _wide_values_of_pages(image) if bands else _wide_values_of(image)
    except ImageError:  # it will be said where the image is read
        return None


def _pillow_or_values(
    image: Opened, value_range: ValueRange | Depth | None, *, bands: bool
) -> Image.Image | np.ndarray:
    """The image for Pillow to decode, or its values where Pillow reads too little of a TIFF file.

    bands: whether those beyond the colours are wanted.
    """
    tiff: TiffImage | None = None
    if isinstance(image, TiffImage):
        tiff = image
    elif isinstance(image, Image.Image) and image.format == "TIFF":
        all_bits = not _are_upper_bits_enough(value_range)
        tiff = beyond_pillow(image, bands=bands, all_bits=all_bits)
    if tiff is not None:
        return tiff.bands() if bands else tiff.colours()
    assert not isinstance(image, TiffImage)
    return image


def _channel_count(image: Image.Image | np.ndarray) -> int:
    """How many channels there are: in pages, or else in bands."""
    if isinstance(image, np.ndarray):
        return image.shape[2] if image.ndim == 3 else 1
    pages = len(_pages(image))
    return pages if pages > 1 else len(image.getbands())


def _where_channels_are(image: Image.Image | np.ndarray) -> str:
    """What was taken for channels, where that may be a mistake."""
    if isinstance(image, np.ndarray):
        return f": an array of the shape {image.shape} is [H, W, C]"
    if len(_pages(image)) > 1:
        width, height = image.size
        return f": its pages, of {height} x {width} pixels, are taken for channels"
    return ""


def _pages(image: Image.Image) -> list[int]:
    """The numbers of the pages of a file, without smaller copies and masks of others."""
    present = image.tell()
    pages = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        if not is_derived_page(image):
            pages.append(page)
    image.seek(present)
    return pages


def _bands_of_array(
    pixels: np.ndarray, value_range: ValueRange | Depth | None
) -> list[Image.Image]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.size == 0:
        raise ValueError(f"an image is [H, W, C], got shape {pixels.shape}")
    pixels = to_eight_bits(pixels, value_range)
    return [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1)]


def _bands_of_image(
    image: Image.Image, value_range: ValueRange | Depth | None
) -> list[Image.Image]:
    """Each page of a file of several grey ones, or else each band of the image."""
    pages = _pages(image)
    if len(pages) <= 1:
        is_cut_to_eight_bits = _is_cut_to_eight_bits(image)
        image.load()
        if is_cut_to_eight_bits:
            _refuse_lost_bits(image, value_range)
        return list(ImageOps.exif_transpose(image).split())
    present = image.tell()
    bands = []
    for channel, page in enumerate(pages):
        image.seek(page)
        page_range = range_of_channel(value_range, channel)
        bands.append(_upright_rgb(image.copy(), page_range).convert("L"))
    image.seek(present)
    return bands


def _wide_values_of(image: Image.Image) -> np.ndarray | None:
    if image.mode not in _WIDE or stated_bits(image) is not None:
        return None
    return np.asarray(image)


def _wide_values_of_pages(image: Image.Image) -> np.ndarray | None:
    """The same of all pages, in one row."""
    present = image.tell()
    wide_pages = []
    for page in _pages(image):
        image.seek(page)
        values = _wide_values_of(image)
        if values is not None:
            wide_pages.append(values.flatten())
    image.seek(present)
    return np.concatenate(wide_pages) if wide_pages else None


def _to_pil(pixels: np.ndarray, value_range: ValueRange | Depth | None) -> Image.Image:
    """An array as a PIL image. Raises ValueError for what is no image."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_grey = pixels.ndim == 2
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (is_grey or is_colour):
        raise ValueError(f"an image is [H, W] or has 1, 3 or 4 channels, got shape {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"there are no pixels in shape {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(to_eight_bits(pixels, value_range)))


def _upright_rgb(
    image: Image.Image, value_range: ValueRange | Depth | None, *, in_place: bool = False
) -> Image.Image:
    """Decodes an image, turns it as EXIF says, and converts it to RGB.

    in_place: may turn the image itself, which saves a copy; not for an image of the caller's.
    """
    bits = stated_bits(image)
    is_cut_to_eight_bits = _is_cut_to_eight_bits(image)
    has_transparency = not _is_fourth_band(image)
    image.load()
    if in_place:
        ImageOps.exif_transpose(image, in_place=True)
    else:
        image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE:
        image = Image.fromarray(to_eight_bits(np.asarray(image), value_range, bits))
    elif is_cut_to_eight_bits:
        _refuse_lost_bits(image, value_range)
    is_transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    if is_transparent and has_transparency:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode == "RGB":  # convert would make a copy
        return image
    return image.convert("RGB")


def _is_fourth_band(image: Image.Image) -> bool:
    """Whether the fourth band of a TIFF is another one than transparency, such as infrared.

    A file with a transparency says so; Pillow takes any fourth band for one.
    """
    tags = getattr(image, "tag_v2", None)
    return image.mode == "RGBA" and tags is not None and _EXTRA_SAMPLES not in tags


def _is_cut_to_eight_bits(image: Image.Image) -> bool:
    """Whether Pillow will read the upper 8 of 16 bits, as it does in files of several channels."""
    if image.mode in _WIDE:
        return False
    return any("16" in str(part[3]) for part in getattr(image, "tile", ()))


def _are_upper_bits_enough(value_range: ValueRange | Depth | None) -> bool:
    """Whether the upper 8 of 16 bits show what there is to see."""
    if value_range is None or isinstance(value_range, int):
        return True
    windows = value_range if has_windows(value_range) else [value_range]
    return all(tuple(window) == _SIXTEEN_BITS for window in windows)


def _refuse_lost_bits(image: Image.Image, value_range: ValueRange | Depth | None) -> None:
    """Raises ValueError for 16 bits of which Pillow read the upper 8, where these are too few."""
    upper_bits = "its channels have 16 bits, of which Pillow reads the upper 8"
    way_out = "pass an array, or a TIFF file where finetune-vision[tiff] is installed"
    if not _are_upper_bits_enough(value_range):
        raise ValueError(f"{upper_bits}, too few for value_range={value_range}; {way_out}")
    largest = max(high for _, high in _extrema(image))
    if 0 < largest < _DARK:
        raise ValueError(
            f"{upper_bits}, and these are at most {largest}: it has 12 bits or fewer; save it with "
            f"8 bits a channel, or {way_out}, with value_range=(black, white)"
        )


def _extrema(image: Image.Image) -> list[Any]:
    """The smallest and the largest value of each band."""
    extrema: Any = image.getextrema()
    return list(extrema) if len(image.getbands()) > 1 else [extrema]
