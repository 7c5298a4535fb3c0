"""Decoding: from a file or an image in memory to an upright RGB image.

It handles every colour mode, the rotation that EXIF states, and scaled decoding of JPEG files.
"""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
Resize: TypeAlias = Literal["crop", "squish", "pad"]
RESIZE_METHODS: tuple[Resize, ...] = get_args(Resize)
"""How a rectangular image becomes a square, see `presize`."""

# Pillow knows these formats by name, but needs another program or a handler to decode them
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})


def image_extensions() -> frozenset[str]:
    """The endings of files that Pillow can open, in lower case, such as ".jpg".

    Those of formats whose opener is registered later, such as HEIC, are among them from then on.
    """
    extensions = set()
    for extension, file_format in Image.registered_extensions().items():
        # the opener of JPEG files opens those of several images, too
        is_opened = file_format in Image.OPEN or file_format == "MPO"
        if is_opened and file_format not in _NOT_DECODED:
            extensions.add(extension)
    return frozenset(extensions)


# PIL's names of modes: "I" has 32 bits, but files with 16 bits are often opened in it
_SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


class ImageError(ValueError):
    """An image can't be read.

    source: the path of the image, or the type of an image in memory. reason: why it can't be read.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"can't read image {source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        # without this, an error that comes from another process could not be unpickled
        return ImageError, (self.source, self.reason)


def read_image(source: ImageSource, *, min_side: int | None = None) -> Image.Image:
    """Reads an image as an upright one in mode RGB.

    source: a path (JPEG, PNG, WebP, BMP, GIF, TIFF; the first frame of several), a PIL image, an
    array [H, W], [H, W, 1 | 3 | 4] or a tensor [1 | 3 | 4, H, W], uint8, uint16 or float in [0, 1].
    Transparent parts become white. 16-bit images are scaled to 8 bits.
    min_side: the shorter side, in pixels, that is fine enough; a JPEG file is then decoded at a
    fraction of its size, which is faster. Other formats are always decoded in full.
    Raises ImageError with the path and the reason.
    """
    name = str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"
    try:
        if isinstance(source, str | Path):
            return _read_file(source, min_side)
        return _upright_rgb(_to_pil(source))
    except IsADirectoryError:
        raise ImageError(name, "it is a folder; name image files") from None
    except FileNotFoundError:
        raise ImageError(name, "there is no such file") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise ImageError(name, f"{error} ({type(error).__name__})") from error


def _read_file(path: str | Path, min_side: int | None) -> Image.Image:
    with Image.open(path) as image:
        check_size(image)
        if min_side is not None and image.format == "JPEG":
            image.draft("RGB", (min_side, min_side))
        return _upright_rgb(image)


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


def presize(image: Image.Image, side: int, method: Resize = "crop") -> np.ndarray:
    """Resizes an image to a square, uint8 [side, side, 3].

    method: "crop" resizes the shorter side to `side` and takes the middle of the longer one;
    "squish" resizes both sides to `side`; "pad" resizes the longer side to `side` and fills the
    square up with black.
    """
    size = (side, side)
    if method == "crop":
        square = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    elif method == "pad":
        square = ImageOps.pad(image, size, Image.Resampling.BILINEAR)
    else:
        square = image.resize(size, Image.Resampling.BILINEAR)
    return np.array(square, dtype=np.uint8)


def _to_pil(source: "Image.Image | np.ndarray | Tensor") -> Image.Image:
    """An image in memory as a PIL image. Raises ValueError for arrays that are no images."""
    if isinstance(source, Image.Image):
        return source
    pixels = _to_array(source)
    is_grey = pixels.ndim == 2
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (is_grey or is_colour):
        raise ValueError(f"an image is [H, W] or has 1, 3 or 4 channels, got shape {pixels.shape}")
    if pixels.size == 0:
        raise ValueError(f"there are no pixels in shape {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(_to_uint8(pixels)))


def _to_array(source: np.ndarray | Tensor) -> np.ndarray:
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


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scales pixel values to 8 bits. Raises ValueError for values without a known range."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"an image is uint8, uint16 or float, got {pixels.dtype}")
    # written so that NaN is refused, too
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("floating point images must lie in [0, 1]")
    return np.round(pixels * 255).astype(np.uint8)


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Decodes an image, turns it as EXIF says, and converts it to RGB."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        image = _sixteen_to_eight_bits(image)
    if image.mode == "F":
        raise ValueError("floating point pixels have no known range; save it as 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode == "RGB":  # convert would make a copy
        return image
    return image.convert("RGB")


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixel values outside 16 bits, up to {pixels.max()}")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
