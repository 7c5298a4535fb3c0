"""ImageSize: the side of a square, or height and width; an image is either for every room."""

from typing import TypeAlias

ImageSize: TypeAlias = int | tuple[int, int]
"""Of images, in pixels: the side of a square, or height and width."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both sides.

    >>> height_and_width(224), height_and_width((128, 256))
    ((224, 224), (128, 256))
    """
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def size_of_sides(height: int, width: int) -> ImageSize:
    """The size of an image with these sides, which is one number for a square.

    >>> size_of_sides(224, 224), size_of_sides(128, 256)
    (224, (128, 256))
    """
    return height if height == width else (height, width)


def is_square(size: ImageSize) -> bool:
    return isinstance(size, int)


def in_pixels(size: ImageSize) -> str:
    """The size for people.

    >>> in_pixels(224), in_pixels((128, 256))
    ('224 px', '128 x 256 px')
    """
    if isinstance(size, int):
        return f"{size} px"
    height, width = size
    return f"{height} x {width} px"
