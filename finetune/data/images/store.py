"""Decoded images of files, kept in a folder between runs and checked against the files."""

import errno
import hashlib
import os
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import PIL

STORE_VERSION = 1
"""Goes up with every change of decoding that changes a pixel."""

IMAGES, IDENTITIES, UNFINISHED = ".images", ".identities", ".new"
ABANDONED_SECONDS = 3600
IDENTITY = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("crc", "<u4"), ("there", "<u4")])

_lock = threading.Lock()
_open: "weakref.WeakValueDictionary[Path, ImageStore]" = weakref.WeakValueDictionary()


class ImageStore:
    """Images of N files as two mapped files, made by `CacheFolder.open`.

    images: uint8 [N, S, S, 3]. Each has an identity: its file's size and time of change, and a
    check sum of the pixels, written after them. Processes that fill a store at the same time write
    the same bytes; what was half-written when the power went fails its check sum.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        # identities first: a file of images alone counts as abandoned
        self._identities = _mapped(path.with_suffix(IDENTITIES), IDENTITY, shape[:1])
        self.images = _mapped(path.with_suffix(IMAGES), np.dtype(np.uint8), shape)
        os.utime(path.with_suffix(IDENTITIES))  # the least recently used goes first

    def fill(self, row: int, file: str | Path, decode: Callable[[str | Path], np.ndarray]) -> None:
        """Makes sure that `images[row]` is the file's image, as the file is now."""
        now = _size_and_time(file)  # before decoding: a change meanwhile must be noticed later
        known = self._identities[row]
        stored = (int(known["size"]), int(known["mtime_ns"]))
        if known["there"] and stored == now and known["crc"] == zlib.crc32(self.images[row]):
            return
        image = decode(file)
        self.images[row] = image
        self._identities[row] = (*now, zlib.crc32(image.data), 1)


class CacheFolder:
    """A folder of image stores, which together stay below a size limit.

    path: made if it isn't there. gigabytes: limit in units of 1e9 bytes; the least recently used
    stores make room for a new one. Raises ValueError for a limit that isn't positive and OSError
    for a folder that can't be written.
    """

    def __init__(self, path: str | Path, gigabytes: float) -> None:
        if not gigabytes > 0:
            raise ValueError(f"cache_gigabytes must be positive, got {gigabytes}")
        self.path, self.gigabytes = Path(path).resolve(), gigabytes
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"can't write to cache_folder={str(path)!r} ({reason}); pass another folder"
            ) from error

    def open(self, files: Sequence[str], side: int, resize: str) -> ImageStore | None:
        """The store of these images; None, with a warning, where it would exceed the limit.

        files: absolute paths, sorted, each once. Raises OSError where the disk is full.
        """
        settings = f"{STORE_VERSION} {PIL.__version__} {side} {resize}"
        names = os.fsencode("\0".join((settings, *files)))
        path = self.path / hashlib.blake2b(names, digest_size=16).hexdigest()
        with _lock:
            store = _open.get(path)
            if store is not None:
                return store
            shape = (len(files), side, side, 3)
            needed = len(files) * (side * side * 3 + IDENTITY.itemsize)
            if not self._make_room(path.name, needed):
                return None
            try:
                store = _open[path] = ImageStore(path, shape)
            except OSError as error:
                raise OSError(
                    f"can't keep {needed / 1e9:.2f} GB of images in cache_folder="
                    f"{str(self.path)!r} ({error.strerror or error}); make room there or pass "
                    "another folder"
                ) from error
            return store

    def _make_room(self, name: str, needed: int) -> bool:
        """Deletes the least recently used of the other stores until `needed` bytes fit."""
        sizes, used = self._others(name)
        in_use = {path.name for path in _open if path.parent == self.path}
        left = self.gigabytes * 1e9 - needed
        if sum(sizes[other] for other in in_use & sizes.keys()) > left:
            warnings.warn(
                f"{needed / 1e9:.2f} GB of images do not fit in cache_folder={str(self.path)!r} "
                f"beside those in use and are not kept between runs; cache_gigabytes is "
                f"{self.gigabytes:g}; raise it or pass a smaller image_size",
                stacklevel=2,
            )
            return False
        for other in sorted(sizes.keys() - in_use, key=lambda other: used[other]):
            if sum(sizes.values()) <= left:
                break
            with suppress(OSError):  # Windows keeps a file that another process has open
                for suffix in (IDENTITIES, IMAGES, UNFINISHED):
                    (self.path / other).with_suffix(suffix).unlink(missing_ok=True)
                del sizes[other]
        return True

    def _others(self, name: str) -> tuple[dict[str, int], dict[str, float]]:
        """Size in bytes and time of last use of every store but one."""
        sizes: dict[str, int] = {}
        used: dict[str, float] = {}
        for entry in os.scandir(self.path):
            stem, suffix = os.path.splitext(entry.name)
            if stem == name or suffix not in (IMAGES, IDENTITIES, UNFINISHED):
                continue
            with suppress(FileNotFoundError):  # another process deletes, too
                found = entry.stat()
                if suffix == UNFINISHED and time.time() - found.st_mtime < ABANDONED_SECONDS:
                    continue  # another process is just making it
                sizes[stem] = sizes.get(stem, 0) + found.st_size
                used[stem] = found.st_mtime if suffix != IMAGES else used.get(stem, 0.0)
        return sizes, used


def _size_and_time(file: str | Path) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:  # decoding says it better
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file as an array; made, full of zeros, if it isn't there."""
    if not path.exists():
        _make_file(path, int(np.prod(shape)) * dtype.itemsize)
    with path.open("r+b") as file:
        return map_file(file, dtype, shape)


def _make_file(path: Path, size: int) -> None:
    """The file gets its name when it has its size, so that no process finds a half-made one."""
    new = path.with_name(f"{path.stem}-{os.getpid()}-{uuid4().hex[:8]}{UNFINISHED}")
    try:
        with new.open("xb") as file:
            allocate(file, size)
        with suppress(OSError):  # another process was first, or the file system has no links
            os.link(new, path)
        if not path.exists():
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def allocate(file: BinaryIO, size: int) -> None:
    """Gives an empty file its size, and blocks on the disk. Raises OSError where it is full."""
    try:
        # to write to a mapped file that gets no block kills the process
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # not on this platform
        file.truncate(size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(size)


def map_file(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file's bytes as an array that outlives the file object."""
    return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
