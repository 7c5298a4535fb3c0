"""Bytes to an upright RGB image: every colour mode, EXIF rotation, scaled JPEG decoding."""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
Resize: TypeAlias = Literal["crop", "squish", "pad"]
RESIZE_METHODS: tuple[Resize, ...] = get_args(Resize)

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)
_SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


class ImageError(ValueError):
    """An image that can't be read. `source` names it, `reason` says why."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"can't read image {source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.source, self.reason)  # so that it survives a process boundary


def read_image(source: ImageSource, *, min_side: int | None = None) -> Image.Image:
    """An upright image in mode RGB.

    source: a path (JPEG, PNG, WebP, BMP, GIF, TIFF; the first frame of several), a PIL image, an
    array [H, W], [H, W, 1 | 3 | 4] or a tensor [1 | 3 | 4, H, W], uint8, uint16 or float in [0, 1].
    Transparent parts become white. 16-bit images are scaled to 8 bits.
    min_side: decode no finer than needed for this shorter side, in pixels (JPEG only).
    Raises ImageError with the path and the reason.
    """
    name = str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"
    try:
        if isinstance(source, str | Path):
            with Image.open(source) as image:
                check_size(image)
                if min_side is not None and image.format == "JPEG":
                    image.draft("RGB", (min_side, min_side))
                return _upright_rgb(image)
        return _upright_rgb(_to_pil(source))
    except IsADirectoryError:
        raise ImageError(name, "it is a folder; name image files") from None
    except FileNotFoundError:
        raise ImageError(name, "there is no such file") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        raise ImageError(name, f"{error} ({type(error).__name__})") from error


def check_size(image: Image.Image) -> None:
    """Raises ValueError for more pixels than PIL takes without a warning."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels, which may be a decompression bomb; raise "
            "PIL.Image.MAX_IMAGE_PIXELS if it is none"
        )


def presize(image: Image.Image, side: int, method: Resize = "crop") -> np.ndarray:
    """The image as a square, uint8 [side, side, 3].

    "crop": shorter side to `side`, the middle of the longer one. "squish": both sides to `side`.
    "pad": longer side to `side`, the rest black.
    """
    size, sampling = (side, side), Image.Resampling.BILINEAR
    if method == "crop":
        square = ImageOps.fit(image, size, sampling)
    elif method == "pad":
        square = ImageOps.pad(image, size, sampling)
    else:
        square = image.resize(size, sampling)
    return np.array(square, dtype=np.uint8)


def _to_pil(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, Tensor):
        array = source.detach().cpu().numpy()
        if array.ndim == 3:
            array = array.transpose(1, 2, 0)
    else:
        array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"an image is [H, W] or has 1, 3 or 4 channels, got shape {array.shape}")
    if not array.size:
        raise ValueError(f"there are no pixels in shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError("floating point images must lie in [0, 1]")
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"an image is uint8, uint16 or float, got {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"pixel values outside 16 bits, up to {pixels.max()}")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating point pixels have no known range; save it as 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
