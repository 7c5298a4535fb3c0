"""TIFF files of which Pillow reads nothing, or less than they hold: by tifffile, an extra.

Pillow knows one band and colours. It does not open most files with other bands, leaves out bands
beyond the colours, and reads the upper 8 bits of colours with 16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from finetune.wording import counted

_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""What a TIFF file begins with, in either order of bytes, with offsets of 4 or of 8 bytes."""

# tags
_SUBFILE, _BITS, _COLOURS, _ORIENTATION, _BANDS, _PLANES = 254, 258, 262, 274, 277, 284

_GREY, _RGB = 1, 2  # values of _COLOURS
_BIG = 43  # third or fourth byte of a file with offsets of 8 bytes
_SMALLER, _MASK = 1, 4  # bits of _SUBFILE
_APART = 2  # value of _PLANES: each band lies by itself

_ALPHA = (1, 2)
"""Kinds of bands beyond the colours that are a transparency."""


@dataclass(frozen=True, slots=True)
class TiffImage:
    """A TIFF file that tifffile is to read. file: its path, or the file itself, open.

    To read of it raises ValueError or OSError where that can't be done.
    """

    file: str | Path | BinaryIO

    def __enter__(self) -> "TiffImage":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two reads."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image, in pixels."""
        with self._pages() as pages:
            width, height = pages[0].imagewidth, pages[0].imagelength
            return (height, width) if _orientation(pages[0]) >= 5 else (width, height)

    def bands(self) -> np.ndarray:
        """The values of all bands, upright: [H, W, C], in the type that they have."""
        with self._pages() as pages:
            values = _values(pages[0])
            if len(pages) > 1:
                raise ValueError(
                    f"it has {len(pages)} pages, the first with "
                    f"{counted(values.shape[2], 'channel')}; save a page a file, or one with all "
                    "channels"
                )
            return values

    def colours(self) -> np.ndarray:
        """The values of what is grey or a colour in the first page, upright.

        [H, W] of a grey one, [H, W, 3] of one in colour, with a fourth channel where that is its
        transparency.
        """
        with self._pages() as pages:
            page, values = pages[0], _values(pages[0])
            channels = values.shape[2]
            if channels == 1:
                return values[:, :, 0]
            if page.photometric != _RGB:
                raise ValueError(
                    f"it has {channels} channels that are no red, green and blue; pass "
                    f"channels={channels}"
                )
            # a file need not say what its fourth channel is
            has_alpha = bool(page.extrasamples) and page.extrasamples[0] in _ALPHA
            return values[:, :, : 4 if has_alpha else 3]

    @contextmanager
    def _pages(self) -> Iterator[list[Any]]:
        """The pages of the open file, without smaller copies and masks of others."""
        if not is_installed():
            raise ValueError(
                "Pillow can't read such a TIFF file; run pip install 'finetune-vision[tiff]', with "
                "which it can be read"
            )
        import tifffile

        if not isinstance(self.file, str | Path):
            self.file.seek(0)
        with tifffile.TiffFile(self.file) as file:
            pages: list[Any] = list(file.pages)
            yield [page for page in pages if not _is_derived(page.subfiletype)] or pages


def has_many_bands(file: str | Path | BinaryIO) -> bool:
    """Whether a file is a TIFF file of so many bands that Pillow logs an error.

    A path must end as that of a TIFF file, so that no other file is opened for this.
    """
    if isinstance(file, str | Path) and not str(file).lower().endswith((".tif", ".tiff")):
        return False
    from PIL.TiffImagePlugin import MAX_SAMPLESPERPIXEL

    return band_count(file) > MAX_SAMPLESPERPIXEL


def band_count(file: str | Path | BinaryIO) -> int:
    """How many bands the first page of a TIFF file has; 0 of another file."""
    if isinstance(file, str | Path):
        with open(file, "rb") as stream:
            return _band_count(stream)
    file.seek(0)
    count = _band_count(file)
    file.seek(0)
    return count


def beyond_pillow(image: Image.Image, *, bands: bool, all_bits: bool) -> TiffImage | None:
    """The file of an opened image, if it is a TIFF file of which Pillow reads too little.

    bands: whether those beyond the colours are wanted. all_bits: whether the upper 8 of 16 are too
    few. Else they will do where tifffile is not installed.
    """
    if image.format != "TIFF":
        return None
    file = getattr(image, "fp", None)
    tags = getattr(image, "tag_v2", {})
    if file is None or tags.get(_COLOURS) not in (_GREY, _RGB) or tags.get(_BANDS, 1) == 1:
        return None
    if max(tags.get(_BITS, (1,))) <= 8:
        leaves_out = len(image.getbands()) < tags[_BANDS]
        return TiffImage(file) if bands and leaves_out else None
    # Pillow takes bytes of one band for those of others, where bands of 16 bits lie apart
    is_needed = all_bits or tags.get(_PLANES) == _APART
    return TiffImage(file) if is_needed or is_installed() else None


def is_derived_page(image: Image.Image) -> bool:
    """Whether the present page of an opened image is a smaller copy or a mask of another one."""
    tags = getattr(image, "tag_v2", {})
    return _is_derived(tags.get(_SUBFILE, 0))


def is_installed() -> bool:
    """Whether there is tifffile."""
    return find_spec("tifffile") is not None


def _is_derived(subfile: int) -> bool:
    return bool(subfile & (_SMALLER | _MASK))


def _band_count(stream: BinaryIO) -> int:
    header = stream.read(8)
    if header[:4] not in _BEGINNINGS:
        return 0
    if _BIG in header[2:4]:
        header += stream.read(8)
    # here, as Pillow asks its plugins in the order of their import whether a file is theirs
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(stream)
    except Exception:  # of a damaged file: SyntaxError, struct.error, ...
        return 0
    return int(tags.get(_BANDS, 1))


def _orientation(page: Any) -> int:
    """How a page has to be turned, as in EXIF."""
    tag = page.tags.get(_ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _values(page: Any) -> np.ndarray:
    """The values of a page, upright: [H, W, C]."""
    # images are decoded by several threads already
    values: np.ndarray = page.asarray(maxworkers=1)
    if page.axes == "YX":
        values = values[:, :, None]
    elif page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes != "YXS":
        raise ValueError(f"it has the axes {page.axes}; an image has height, width and channels")
    return _upright(values, _orientation(page))


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values [H, W, C] turned as EXIF says, by the number that it has for that."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
