"""PackedImage: an image file that is a part of a larger file, such as a tar file."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import NamedTuple


class Version(NamedTuple):
    """What changes with an image that is a part of a file.

    size: in bytes, of the image where that is known, or else of the file. version: of the file, a
    number.
    """

    size: int
    version: int


class PackedImage(ABC):
    """An image file that is a part of a larger file, read when it is asked for.

    As a text it is the path of the file and its place there, which errors and tables show.
    """

    __slots__ = ()

    name: str
    """What the image is called, with slashes, whichever file it is in."""

    @abstractmethod
    def content(self) -> bytes:
        """The bytes of the image file. Raises ValueError or OSError."""

    @property
    @abstractmethod
    def version(self) -> Version:
        """What changes with the image; nothing is read for that."""

    def content_size(self) -> int:
        """The size of the content in bytes, for which it may have to be read."""
        return len(self.content())

    @property
    def is_read_quickly(self) -> bool:
        """Whether reading many images one by one takes little time."""
        return False

    @property
    def read_with(self) -> Hashable | None:
        """What images share that are read together; None for an image that is read by itself."""
        return None
