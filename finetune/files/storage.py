"""Where a file that is read in parts lies: its state, its bytes, and whether it has changed."""

import os
from typing import BinaryIO, NamedTuple, Protocol


class State(NamedTuple):
    """What changes with a file: its size in bytes, and a number that says which version it is."""

    size: int
    version: int


class Storage(Protocol):
    """A place of files."""

    def state(self, path: str) -> State:
        """The state of a file. Raises FileNotFoundError where there is none."""

    def open(self, path: str) -> BinaryIO:
        """The file, to be read from its beginning and to be sought in."""

    def read(self, path: str, offset: int, size: int, state: State) -> bytes:
        """So many bytes from a place in the file on.

        state: of the file when the place was found. Raises ValueError for a file that has changed
        since, or that ends before.
        """


class Disk:
    """Files of this machine; their version is the time of their last change, in nanoseconds."""

    def state(self, path: str) -> State:
        return _state_of(os.stat(path))

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def read(self, path: str, offset: int, size: int, state: State) -> bytes:
        # opened for every read: a hundredth of the time that decoding takes, and there is nothing
        # open that threads and forked processes would share, or that a system limits
        with open(path, "rb") as file:
            if _state_of(os.fstat(file.fileno())) != state:
                raise ValueError(HAS_CHANGED)
            file.seek(offset)
            content = file.read(size)
        return whole(content, size)


HAS_CHANGED = "the file has changed since it was listed; make the data anew"


def whole(content: bytes, size: int) -> bytes:
    """The content, if it has as many bytes as were asked for. Raises ValueError for fewer."""
    if len(content) != size:
        raise ValueError(f"the file ends after {len(content):,} of {size:,} bytes")
    return content


def storage_of(path: str) -> Storage:
    """The storage that a path names."""
    return Disk()


def _state_of(status: os.stat_result) -> State:
    return State(status.st_size, status.st_mtime_ns)
