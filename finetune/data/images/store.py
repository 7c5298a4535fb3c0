"""ImageStore: decoded images, kept in a folder between runs and checked against their files.

A store is two files. `.images` holds the pixels of N images. `.identities` holds a record for each
image: the size and the time of change of the file that it was decoded from (or the size of the
member of a shard, and the shard's version), its height and width, and a check sum of the pixels.
Both files have their full size from the beginning and are mapped into memory.
"""

import errno
import hashlib
import math
import os
import tempfile
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import PIL

from finetune import arguments
from finetune.data.images.packed import PackedImage
from finetune.data.images.rows import ImageRows
from finetune.forks import ForkSafeLock
from finetune.image_size import ImageSize, height_and_width
from finetune.wording import warn

STORE_VERSION = 4
"""To be increased with every change of decoding that changes a pixel."""

IMAGES, IDENTITIES, UNFINISHED = ".images", ".identities", ".new"
"""Suffixes of a store's files, and of files that are just being made."""

ABANDONED_SECONDS = 3600
"""Age from which an unfinished file counts as left behind by a process that was killed."""

IDENTITY = np.dtype(
    [
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("crc", "<u4"),
        ("is_filled", "<u4"),
        ("height_and_width", "<i4", (2,)),
    ]
)
"""A record of the file of identities. size: of the image's file, in bytes."""

# so that all caches of a process share one store, and a store in use is not deleted
_lock = ForkSafeLock()
_open: "weakref.WeakValueDictionary[Path, ImageStore]" = weakref.WeakValueDictionary()


class ImageStore:
    """Decoded images of N files; `CacheFolder.open` makes it.

    images: see `ImageRows`. No lock between processes is needed: those that fill a store at
    the same time write the same bytes. An image's identity is written after its pixels, and an
    image that was half-written when the power went fails its check sum.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], margin: int) -> None:
        identities, images = path.with_suffix(IDENTITIES), path.with_suffix(IMAGES)
        # identities first: a file of images alone counts as the least recently used
        self._identities = _map_or_make_file(identities, IDENTITY, shape[:1])
        pixels = _map_or_make_file(images, np.dtype(np.uint8), shape)
        self.images = ImageRows(pixels, self._identities["height_and_width"], margin)
        os.utime(identities)  # the time of the last use, see `CacheFolder`

    def fill(
        self,
        row: int,
        file: str | Path | PackedImage,
        decode: Callable[[str | Path | PackedImage], np.ndarray],
    ) -> None:
        """Makes sure that the row has the file's image, as the file is now."""
        # taken before decoding, so that a change of the file meanwhile is noticed the next time
        size_and_time = _size_and_time(file)
        if self._is_current(row, size_and_time):
            return
        image = decode(file)
        self.images.put(row, image, (image.shape[0], image.shape[1]))
        crc = zlib.crc32(self.images.part(row).data)
        self._identities[row] = (*size_and_time, crc, 1, image.shape[:2])

    def _is_current(self, row: int, size_and_time: tuple[int, int]) -> bool:
        """Whether the row holds, undamaged, the image of a file with this size and time."""
        identity = self._identities[row]
        if not identity["is_filled"]:
            return False
        if (int(identity["size"]), int(identity["mtime_ns"])) != size_and_time:
            return False
        is_undamaged: bool = identity["crc"] == zlib.crc32(self.images.part(row).data)
        return is_undamaged


class CacheFolder:
    """A folder of image stores, which together stay below a size limit.

    path: the folder is made if there is none. gigabytes: the limit, in units of 1e9 bytes; to make
    room for a new store, the least recently used stores are deleted. Raises ValueError for a limit
    that isn't positive and OSError for a folder that can't be written.
    """

    def __init__(self, path: str | Path, gigabytes: float) -> None:
        arguments.real_number("cache_gigabytes", gigabytes, above=0)
        self.path = arguments.path("cache_folder", path).resolve()
        self.gigabytes = gigabytes
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"can't write to cache_folder={str(path)!r} ({reason}); pass another folder"
            ) from error

    def open(
        self,
        files: Sequence[str],
        size: ImageSize,
        margin: int,
        settings: str,
        channels: int = 3,
    ) -> ImageStore | None:
        """Opens or makes the store of these files' images.

        files: absolute paths, sorted, each once. size, margin: of an image in pixels, see
        `ImageRows`. settings: what else decides the pixels, in words. Returns None, with a warning,
        where the store would exceed the limit. Raises OSError where the disk is full.
        """
        decoding = f"{STORE_VERSION} {PIL.__version__} {size} {margin} {settings}"
        if channels != 3:
            decoding += f" {channels} channels"
        names = os.fsencode("\0".join((decoding, *files)))
        path = self.path / hashlib.blake2b(names, digest_size=16).hexdigest()
        with _lock.held():
            store = _open.get(path)
            if store is not None:
                return store
            height, width = height_and_width(size)
            shape = (len(files), height + 2 * margin, width, channels)
            needed_bytes = math.prod(shape) + len(files) * IDENTITY.itemsize
            if not self._make_room(path.name, needed_bytes):
                return None
            try:
                store = ImageStore(path, shape, margin)
            except OSError as error:
                raise OSError(
                    f"can't keep {needed_bytes / 1e9:.2f} GB of images in cache_folder="
                    f"{str(self.path)!r} ({error.strerror or error}); make room there or pass "
                    "another folder"
                ) from error
            _open[path] = store
            return store

    def _make_room(self, name: str, needed_bytes: int) -> bool:
        """Deletes the least recently used stores until there is room for the one called `name`.

        Returns whether there is room. Where the stores in use leave too little, nothing is deleted.
        """
        bytes_of, last_use_of = self._stores_except(name)
        names_in_use = {path.name for path in _open if path.parent == self.path}
        limit_bytes = self.gigabytes * 1e9 - needed_bytes
        bytes_in_use = sum(bytes_of[store] for store in names_in_use & bytes_of.keys())
        if bytes_in_use > limit_bytes:
            warn(
                f"{needed_bytes / 1e9:.2f} GB of images do not fit in cache_folder="
                f"{str(self.path)!r} beside those in use and are not kept between runs; "
                f"cache_gigabytes is {self.gigabytes:g}; raise it or pass a smaller image_size"
            )
            return False
        for store in sorted(bytes_of.keys() - names_in_use, key=last_use_of.__getitem__):
            if sum(bytes_of.values()) <= limit_bytes:
                break
            with suppress(OSError):  # Windows keeps a file that another process has open
                for suffix in (IDENTITIES, IMAGES, UNFINISHED):
                    (self.path / store).with_suffix(suffix).unlink(missing_ok=True)
                del bytes_of[store]
        return True

    def _stores_except(self, name: str) -> tuple[dict[str, int], dict[str, float]]:
        """Size in bytes and time of last use of every store, by name, except for one store.

        Unfinished files count as stores, unless another process may still be making them.
        """
        bytes_of: dict[str, int] = {}
        last_use_of: dict[str, float] = {}
        for entry in os.scandir(self.path):
            stem, suffix = os.path.splitext(entry.name)
            if stem == name or suffix not in (IMAGES, IDENTITIES, UNFINISHED):
                continue
            with suppress(FileNotFoundError):  # another process deletes, too
                status = entry.stat()
                age_seconds = time.time() - status.st_mtime
                if suffix == UNFINISHED and age_seconds < ABANDONED_SECONDS:
                    continue
                bytes_of[stem] = bytes_of.get(stem, 0) + status.st_size
                if suffix == IMAGES:
                    # a use sets the time of the identities; a store without them is the oldest
                    last_use_of.setdefault(stem, 0.0)
                else:
                    last_use_of[stem] = status.st_mtime
        return bytes_of, last_use_of


def _size_and_time(file: str | Path | PackedImage) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds; (-1, -1) for a file that can't be read."""
    if isinstance(file, PackedImage):
        return file.version
    try:
        status = os.stat(file)
    except OSError:  # no error yet: that of decoding will name the image and the reason
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _map_or_make_file(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file as an array. A file that isn't there is made, full of zeros."""
    if not path.exists():
        _make_file(path, int(np.prod(shape)) * dtype.itemsize)
    with path.open("r+b") as file:
        return map_file(file, dtype, shape)


def _make_file(path: Path, size: int) -> None:
    """Makes a file of zeros, `size` bytes long.

    The file gets its name only when it has its full size, so that no process sees a smaller one.
    """
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
    """Gives an empty file its size in bytes, and as many blocks of the disk.

    Raises OSError where the disk is full.
    """
    try:
        # without blocks, a write to the mapped file kills the process when the disk is full
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # not on this platform
        file.truncate(size)
    except OSError as error:
        # some file systems can't reserve blocks
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(size)


def map_file(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file's bytes as an array that outlives the file object."""
    return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
