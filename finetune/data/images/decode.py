"""Decoding: from a file or an image in memory to an upright RGB image.

It handles every colour mode, the rotation that EXIF states, and scaled decoding of JPEG files.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from finetune.data.images.shards import ShardImage
from finetune.data.images.value_range import (
    Depth,
    ValueRange,
    range_of_channel,
    stated_bits,
    to_eight_bits,
)
from finetune.forks import ForkSafeLock
from finetune.image_size import ImageSize, height_and_width
from finetune.wording import counted

ImageSource: TypeAlias = (
    "str | Path | ShardImage | Image.Image | np.ndarray | Tensor | bytes | BinaryIO | "
    "Mapping[str, Any]"
)
"""What `read_image` reads. A mapping is a cell of Hugging Face's: {"bytes": ..., "path": ...}."""
Resize: TypeAlias = Literal["crop", "squish", "pad"]
RESIZE_METHODS: tuple[Resize, ...] = get_args(Resize)
"""How an image gets the shape of the model's input, see `presize`."""

# Pillow knows these formats by name, but needs another program or a handler to decode them
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})


def image_extensions() -> frozenset[str]:
    """The endings of files that can be read, in lower case, such as ".jpg"; those of Pillow and
    ".npy".

    Those of formats whose opener is registered later, such as HEIC, are among them from then on.
    """
    extensions = {_NUMPY}
    for extension, file_format in Image.registered_extensions().items():
        # the opener of JPEG files opens those of several images, too
        is_opened = file_format in Image.OPEN or file_format == "MPO"
        if is_opened and file_format not in _NOT_DECODED:
            extensions.add(extension)
    return frozenset(extensions)


_NUMPY = ".npy"
"""The ending of a file that holds one array of NumPy."""

# PIL's names of modes with more than 8 bits: "I" has 32, "F" are floats
_WIDE = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


# one for all, because several images may be parts of one open file
_opened_images = ForkSafeLock()

_EXTRA_SAMPLES = 338
"""TIFF's tag that says what bands beyond the colours mean."""

_DARK = 16
"""An image of 12 bits in 16 has upper bytes below this."""


class ImageError(ValueError):
    """An image can't be read.

    source: the path of the image, or the type of an image in memory. reason: why it can't be read.

    >>> try:
    ...     read_image("nothing.jpg")
    ... except ImageError as error:
    ...     print(error.source, "-", error.reason)
    nothing.jpg - there is no such file
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"can't read image {source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        # without this, an error that comes from another process could not be unpickled
        return ImageError, (self.source, self.reason)


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
    is open already is read by one thread at a time. Transparent parts become white.
    min_side: the shorter side, in pixels, that is fine enough; a JPEG file is then decoded at a
    fraction of its size, which is faster. Other formats are always decoded in full. value_range:
    the values that become black and white in images of more than 8 bits, or such a pair for each
    of three channels, or how many bits of integers are used; None finds them, see
    `value_range.py`.
    Raises ImageError with the path and the reason.
    """
    with _image_errors(source):
        if isinstance(source, Mapping):
            source = _source_in(source)
        array = stored_array(source)
        if array is not None:
            return _upright_rgb(_to_pil(array, value_range), None)
        file = _file_in(source)
        if file is not None:
            return _read_file(file, min_side, value_range)
        if isinstance(source, Image.Image):
            with _opened_images.held():
                return _upright_rgb(source, value_range)
        return _upright_rgb(_to_pil(source, value_range), None)


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
    image. value_range: see `read_image`; for all channels, or a pair for each.
    Raises ImageError as `read_image` does, and for another number of channels.
    """
    if channels == 1:
        return [read_image(source, value_range=value_range).convert("L")]
    with _image_errors(source):
        return _bands_of(source, channels, value_range)


@contextmanager
def _image_errors(source: ImageSource) -> Iterator[None]:
    """Makes an ImageError, with the name of the image, of whatever goes wrong while it is read."""
    try:
        yield
    except ImageError:
        raise
    except IsADirectoryError:
        raise ImageError(_name_of(source), "it is a folder; name image files") from None
    except FileNotFoundError:
        raise ImageError(_name_of(source), "there is no such file") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise ImageError(_name_of(source), f"{error} ({type(error).__name__})") from error


def _name_of(source: ImageSource) -> str:
    return file_name(source) or f"<{type(source).__name__}>"


def _bands_of(
    source: Any, channels: int, value_range: ValueRange | Depth | None
) -> list[Image.Image]:
    if isinstance(source, Mapping):
        source = _source_in(source)
    array = stored_array(source)
    file = None if array is not None else _file_in(source)
    if file is not None:
        with Image.open(file) as image:
            check_size(image)
            return _bands_of_image(image, source, channels, value_range)
    if isinstance(source, Image.Image):
        with _opened_images.held():
            return _bands_of_image(source, source, channels, value_range)
    pixels = _to_array(source if array is None else array)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.size == 0:
        raise ValueError(f"an image is [H, W, C], got shape {pixels.shape}")
    _check_count(source, pixels.shape[2], channels)
    pixels = to_eight_bits(pixels, value_range)
    return [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1)]


def _bands_of_image(
    image: Image.Image, source: Any, channels: int, value_range: ValueRange | Depth | None
) -> list[Image.Image]:
    """Each page of a file of several grey ones, or else each band of the image."""
    pages = getattr(image, "n_frames", 1)
    if pages == 1:
        _check_count(source, len(image.getbands()), channels)
        return list(ImageOps.exif_transpose(image).split())
    _check_count(source, pages, channels)
    bands = []
    for page in range(pages):
        image.seek(page)
        page_range = range_of_channel(value_range, page)
        bands.append(_upright_rgb(image.copy(), page_range).convert("L"))
    return bands


def _check_count(source: Any, count: int, channels: int) -> None:
    """Raises ImageError for an image of another number of channels."""
    if count != channels:
        reason = f"it has {counted(count, 'channel')}, not channels={channels}"
        raise ImageError(_name_of(source), reason)


def file_name(source: Any) -> str | None:
    """What the file of an image is called: its path, or shard and member; None without a file."""
    return str(source) if isinstance(source, str | Path | ShardImage) else None


def _source_in(cell: Mapping[str, Any]) -> Any:
    """The image of a cell of Hugging Face's: the file's content, or else its path."""
    for name in ("bytes", "path"):
        if cell.get(name) is not None:
            return cell[name]
    raise ValueError(f"a mapping has an image as 'bytes' or 'path', got {list(cell)}")


def stored_array(source: Any) -> np.ndarray | None:
    """The array in a .npy file, of which is read what is used of it; None for another source."""
    name = file_name(source) or ""
    if os.path.splitext(name)[1].lower() != _NUMPY:
        return None
    # never unpickled: an array of objects is refused
    array: np.ndarray
    if isinstance(source, ShardImage):
        array = np.load(io.BytesIO(source.content()), allow_pickle=False)
    else:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    return array


def _file_in(source: Any) -> str | Path | BinaryIO | None:
    """The path of a file, or its content; None for an image in memory."""
    if isinstance(source, str | Path):
        return source
    if isinstance(source, ShardImage):
        return io.BytesIO(source.content())
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return io.BytesIO(_content_of(source))
    return None


def wide_values(source: ImageSource) -> np.ndarray | None:
    """The values of an image of more than 8 bits, if nothing says how many of them are used.

    Of a file with 8 bits only the header is read. None for what can't be read, too.
    """
    try:
        if isinstance(source, Mapping):
            source = _source_in(source)
        array = stored_array(source)
        if array is not None:
            source = array
        file = _file_in(source)
        if file is not None:
            with Image.open(file) as image:
                check_size(image)
                return _wide_values_of(image)
        if isinstance(source, Image.Image):
            with _opened_images.held():
                return _wide_values_of(source)
        values = _to_array(source)
    except Exception:  # the error will be said where the image is read
        return None
    return None if values.dtype == np.uint8 else values


def _wide_values_of(image: Image.Image) -> np.ndarray | None:
    if image.mode not in _WIDE or stated_bits(image) is not None:
        return None
    return np.asarray(image)


def _content_of(file: Any) -> bytes:
    """All bytes of an open file, which stays where it was."""
    with _opened_images.held():
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
    if not isinstance(content, bytes):
        raise ValueError("a file must be open in binary mode: open(path, 'rb')")
    return content


def _read_file(
    path: str | Path | BinaryIO, min_side: int | None, value_range: ValueRange | Depth | None
) -> Image.Image:
    with Image.open(path) as image:
        check_size(image)
        if min_side is not None and image.format == "JPEG":
            image.draft("RGB", (min_side, min_side))
        return _upright_rgb(image, value_range, in_place=True)


def check_size(image: Image.Image) -> None:
    """Raises ValueError for an image with more pixels than PIL opens without a warning.

    PIL's own warning is no help here: to turn it into an error, the warning filters would have to
    be changed, and they belong to all threads of the process.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels, which may be a decompression bomb; raise "
            "PIL.Image.MAX_IMAGE_PIXELS if it is none"
        )


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


def _to_pil(source: Any, value_range: ValueRange | Depth | None) -> Image.Image:
    """An array or a tensor as a PIL image. Raises ValueError for what is no image."""
    if not isinstance(source, np.ndarray | Tensor) and not hasattr(source, "__array__"):
        raise ValueError(
            "an image is a path, a PIL image, an array, a tensor, the bytes of a file or an open "
            f"file, got {source!r:.60}"
        )
    pixels = _to_array(source)
    is_grey = pixels.ndim == 2
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (is_grey or is_colour):
        raise ValueError(f"an image is [H, W] or has 1, 3 or 4 channels, got shape {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"there are no pixels in shape {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(to_eight_bits(pixels, value_range)))


def _to_array(source: Any) -> np.ndarray:
    """The pixels with channels last, or without channels where there is one."""
    if isinstance(source, Tensor):
        pixels = source.detach().cpu().numpy()
        if pixels.ndim == 3:
            pixels = pixels.transpose(1, 2, 0)
    else:
        pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        return pixels[:, :, 0]
    return pixels


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
        _refuse_dark(image)
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


def _refuse_dark(image: Image.Image) -> None:
    """Raises ValueError for an image whose upper 8 bits of 16 are almost empty."""
    largest = max(high for _, high in _extrema(image))
    if 0 < largest < _DARK:
        raise ValueError(
            f"its channels have 16 bits, of which Pillow reads the upper 8, and these are at most "
            f"{largest}: it has 12 bits or fewer; save it with 8 bits a channel, or pass an array "
            "with value_range=(black, white)"
        )


def _extrema(image: Image.Image) -> list[Any]:
    """The smallest and the largest value of each band."""
    extrema: Any = image.getextrema()
    return list(extrema) if len(image.getbands()) > 1 else [extrema]
