"""Opening: from a source of any kind to an image that is not decoded yet, or to an array."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from finetune.data.images.packed import PackedImage
from finetune.data.images.tiff import TiffImage, band_count, has_many_bands
from finetune.forks import ForkSafeLock

ImageSource: TypeAlias = (
    "str | Path | PackedImage | Image.Image | np.ndarray | Tensor | bytes | BinaryIO | "
    "Mapping[str, Any]"
)
"""What `opened` opens. A mapping is a cell of Hugging Face's: {"bytes": ..., "path": ...}."""
Opened: TypeAlias = Image.Image | TiffImage | np.ndarray
"""An image that Pillow decodes, or a TIFF file that it can't; or values, [H, W] or [H, W, C]."""

# Pillow knows these formats by name, but needs another program or a handler to decode them
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})

_FILES = (str, Path, PackedImage)

_NUMPY, _NUMPY_BEGINNING = ".npy", b"\x93NUMPY"
"""The ending of a file that holds one array of NumPy, and its first bytes."""

# one for all, because several images may be parts of one open file
_opened_images = ForkSafeLock()


class ImageError(ValueError):
    """An image can't be read.

    source: the path of the image, or the type of an image in memory. reason: why it can't be read.

    >>> from finetune.data.images.decode import read_image
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


def file_name(source: Any) -> str | None:
    """What the file of an image is called: its path, or shard and member; None without a file."""
    return str(source) if isinstance(source, _FILES) else None


def image_name(source: ImageSource) -> str:
    """What an image is called in an error: its file, or else its type."""
    return file_name(source) or f"<{type(source).__name__}>"


@contextmanager
def opened(source: ImageSource) -> Iterator[Opened]:
    """What is in a source, open while the block runs.

    An image of the caller's own is given as it is, to one thread at a time. Whatever goes wrong,
    in the block as well, is raised as an ImageError with the name of the image.
    """
    try:
        content = _source_in(source) if isinstance(source, Mapping) else source
        if isinstance(content, Image.Image):
            with _opened_images.held():
                yield content
        else:
            file = _file_in(content)
            array = _to_array(content) if file is None else _stored_array(file)
            if array is not None:
                yield array
            else:
                assert file is not None
                with _open_file(file) as image:
                    _check_size(*image.size)
                    yield image
    except ImageError:
        raise
    except IsADirectoryError:
        raise ImageError(image_name(source), "it is a folder; name image files") from None
    except FileNotFoundError:
        raise ImageError(image_name(source), "there is no such file") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        reason = f"{error} ({type(error).__name__})"
        raise ImageError(image_name(source), reason) from error


def _source_in(cell: Mapping[str, Any]) -> Any:
    """The image of a cell of Hugging Face's: the file's content, or else its path."""
    for name in ("bytes", "path"):
        if cell.get(name) is not None:
            return cell[name]
    raise ValueError(f"a mapping has an image as 'bytes' or 'path', got {list(cell)}")


def _stored_array(file: str | Path | BinaryIO) -> np.ndarray | None:
    """The array in a .npy file, of which is read what is used of it; None for another file.

    A path is known by its ending, and content by its beginning.
    """
    # never unpickled: an array of objects is refused
    array: np.ndarray
    if isinstance(file, str | Path):
        if str(file)[-len(_NUMPY) :].lower() != _NUMPY:
            return None
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        return array
    beginning = file.read(len(_NUMPY_BEGINNING))
    file.seek(0)
    if beginning != _NUMPY_BEGINNING:
        return None
    array = np.load(file, allow_pickle=False)
    return array


def _file_in(content: Any) -> str | Path | BinaryIO | None:
    """The path of a file, or its content; None for an image in memory."""
    if isinstance(content, str | Path):
        return content
    if isinstance(content, PackedImage):
        return io.BytesIO(content.content())
    if isinstance(content, bytes | bytearray | memoryview):
        return io.BytesIO(content)
    if hasattr(content, "read"):
        return io.BytesIO(_content_of(content))
    return None


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


def _open_file(file: str | Path | BinaryIO) -> Image.Image | TiffImage:
    if has_many_bands(file):
        return TiffImage(file)
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if band_count(file) == 0:  # no TIFF file
            raise
        return TiffImage(file)


def _check_size(width: int, height: int) -> None:
    """Raises ValueError for an image with more pixels than PIL opens without a warning.

    PIL's own warning is no help here: to turn it into an error, the warning filters would have to
    be changed, and they belong to all threads of the process.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width} x {height} pixels, which may be a decompression bomb; raise "
            "PIL.Image.MAX_IMAGE_PIXELS if it is none"
        )


def _to_array(content: Any) -> np.ndarray:
    """An image in memory as an array, with channels last."""
    if isinstance(content, Tensor):
        pixels: np.ndarray = content.detach().cpu().numpy()
        return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if not isinstance(content, np.ndarray) and not hasattr(content, "__array__"):
        raise ValueError(
            "an image is a path, a PIL image, an array, a tensor, the bytes of a file or an open "
            f"file, got {content!r:.60}"
        )
    return np.asarray(content)
