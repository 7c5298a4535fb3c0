"""ImageRows: presized images in the rows of one array, which may be of different lengths.

A row has room for a square of side S and for M more pixels at either end of it. An image lies in
the middle of its row, such that its middle square is at the same place in every row. A wide image
is transposed: the long axis of each image is the first one of its row.

With M = 0 all images have one height and width, which need not be alike, and lie as they are.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Presized: TypeAlias = tuple[np.ndarray, tuple[int, int]]
"""Pixels of an image, or of its middle square alone, and the height and width of the image."""

REACH = 0.25
"""Of an elongated image so much is kept beyond either end of its middle square, as a fraction of
the square's side: 3:2 photos are kept whole."""


def margin_of(side: int) -> int:
    """Pixels that are kept beyond either end of a square of this side.

    >>> margin_of(256)
    64
    """
    return round(REACH * side)


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """R images in the memory of the host.

    pixels: uint8 [R, M + S + M, S, C]; beyond the ends of an image they mean nothing. sizes:
    integers [R, 2], the height and the width of each image. margin: M, the most that an image may
    have beyond either end of its middle square.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    margin: int

    @classmethod
    def to_be_filled(cls, pixels: np.ndarray, margin: int) -> "ImageRows":
        """Rows of these pixels, in which there are no images yet."""
        count, length, width, _ = pixels.shape
        sizes = np.empty((count, 2), np.int32)
        sizes[:] = length - 2 * margin, width
        return cls(pixels, sizes, margin)

    def put(self, row: int, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Copies an image into its row, or its middle square alone, which lies in the same place.

        pixels: uint8, [height, width, C] or [S, S, C]. size: height and width of the image.
        """
        height, width = size
        self.sizes[row] = height, width
        if self.margin and width > height:
            pixels = _transposed(pixels)
        lines: np.ndarray = self.pixels[row]
        start = (len(lines) - len(pixels)) // 2
        lines[start : start + len(pixels)] = pixels

    def part(self, row: int) -> np.ndarray:
        """What the image takes of its row, as it lies there: uint8 [long side, short side, C]."""
        pixels: np.ndarray = self.pixels[row]
        if not self.margin:
            return pixels
        long_side = int(self.sizes[row].max())
        start = (len(pixels) - long_side) // 2
        return pixels[start : start + long_side]

    def squares(self, rows: np.ndarray) -> np.ndarray:
        """The middle squares of the images in these rows, upright: uint8 [B, S, S, C].

        Or the images themselves, if all have one size: uint8 [B, height, width, C].
        """
        margin, side = self.margin, self.pixels.shape[2]
        if not margin:
            of_one_size: np.ndarray = self.pixels[rows]
            return of_one_size
        squares: np.ndarray = self.pixels[:, margin : margin + side][rows]
        is_wide = self.sizes[rows, 1] > self.sizes[rows, 0]
        if is_wide.any():
            squares[is_wide] = _transposed(squares[is_wide])
        return squares

    def select(self, rows: np.ndarray) -> "ImageRows":
        """A copy of these rows, no longer than the longest of the images in them."""
        sizes = self.sizes[rows]
        if not self.margin:
            return ImageRows(self.pixels[rows], sizes, 0)
        longest = int(sizes.max(initial=self.pixels.shape[2]))
        start = (self.pixels.shape[1] - longest) // 2
        margin = (longest - self.pixels.shape[2]) // 2
        return ImageRows(self.pixels[:, start : start + longest][rows], sizes, margin)


def _transposed(images: np.ndarray) -> np.ndarray:
    """A copy with height and width exchanged: uint8 [..., H, W, C] to [..., W, H, C]."""
    # whole pixels are moved in a third of the time of single bytes
    pixels = np.ascontiguousarray(images).view(f"V{images.shape[-1]}")[..., 0]
    return np.ascontiguousarray(pixels.swapaxes(-1, -2))[..., None].view(np.uint8)
