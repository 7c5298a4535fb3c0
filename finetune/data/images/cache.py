"""ImageCache: presized uint8 images, decoded once by a few threads and kept where there is room."""

import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.dataset_images import DatasetImages, select_items
from finetune.data.images.opening import ImageError, ImageSource, file_name
from finetune.data.images.packed import PackedImage
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.rows import ImageRows, Presized
from finetune.data.images.store import CacheFolder, ImageStore, allocate, map_file
from finetune.data.images.whole import WholeImages
from finetune.data.memory import reserve
from finetune.forks import ForkSafeLock
from finetune.image_size import height_and_width
from finetune.wording import warn

DISK_FRACTION = 0.5
"""Share of the free disk space that a temporary file may take."""


class ImageCache:
    """Images by number, each decoded when it is first asked for.

    The images are kept, from the first use on, in the first of these places that has room for all:
    the cache folder, where one is passed and all images are files; memory, as far as `reserve`
    grants it; a temporary file without a name, in the cache folder or else where temporary files
    go, which is deleted together with the cache. Without any room every epoch decodes anew, and a
    warning says so.

    num_workers: threads that decode; their number changes no result. Threads are enough, because
    PIL decodes outside the interpreter lock: two threads are as fast as two processes would be (2.0
    and 1.95 s for 3,068 photos). folder: keeps images between runs. margin: so many pixels beyond
    either end of the middle square of an elongated image are kept, and given as `WholeImages`.
    """

    # R is the number of images that are kept together, N the number of images in this cache.
    _images: ImageRows | None  # R images; None where there is no room
    _has_square: np.ndarray  # bool [R]: which of them can be used, as far as the middle square
    _has_ends: np.ndarray  # bool [R]: which of them can be used as a whole
    _rows: np.ndarray  # int64 [N]: the row in `_images` of each image
    _store: ImageStore | None  # the store in the cache folder, if the images are kept there
    _parts: np.ndarray | None  # int64 [N]: the same for images that are read together

    def __init__(
        self,
        items: Sequence[ImageSource],
        preprocessing: Preprocessing,
        num_workers: int,
        *,
        folder: CacheFolder | None = None,
        margin: int = 0,
    ) -> None:
        self.items = items
        self.preprocessing = preprocessing
        self.num_workers = num_workers
        self._folder = folder
        self._margin = margin
        self._is_whole = margin > 0
        self._keeps_ends = True
        self._lock = ForkSafeLock()
        self._is_open = False
        # of a subset: the cache that it shares, and the numbers of its images there
        self._parent: ImageCache | None = None
        self._numbers = np.arange(0)

    def images(self, indices: Tensor) -> Tensor | WholeImages:
        """The images with these numbers, uint8 [B, 3, H, W] in channels-last layout, or whole.

        indices: [B] int64. Raises ImageError for an image that can't be read.
        """
        self._open()
        numbers = indices.numpy()
        rows = self._rows[numbers]
        missing = np.unique(numbers[~self._is_ready[rows]])
        decoded: list[Presized | None] = []
        if len(missing):
            with self._decoders() as threads:
                decoded = list(threads.map(self._decoder_of(missing), self._read_with(missing)))
        images = self._images
        if images is None:
            # where nothing is kept, all images of the batch were missing
            pixels = np.empty(self._shape(len(missing)), np.uint8)
            images = ImageRows.to_be_filled(pixels, self._margin)
            for row, presized in enumerate(decoded):
                assert presized is not None
                images.put(row, *presized)
            rows = np.searchsorted(missing, numbers)
        if self._is_whole:
            return WholeImages.of(images.select(rows))
        return torch.from_numpy(images.squares(rows)).permute(0, 3, 1, 2)

    def _read_with(self, missing: np.ndarray) -> list[int]:
        """The numbers of missing images, and of all that are read together with one of them.

        So each part of a file is read once, whatever the order in which its images are asked for.
        """
        numbers = missing
        if self._parts is not None and self._images is not None:
            is_read = np.isin(self._parts, self._parts[missing])
            numbers = np.flatnonzero(is_read & ~self._is_ready[self._rows])
        listed: list[int] = numbers.tolist()
        return listed

    def _decoder_of(self, asked: np.ndarray) -> Callable[[int], Presized | None]:
        """Decodes an image by its number; only of those that were asked for, errors are raised."""
        asked_numbers = set(asked.tolist())

        def decode(number: int) -> Presized | None:
            try:
                return self._decode(number)
            except ImageError:
                if number in asked_numbers:
                    raise
                return None  # the error will be raised when this image is asked for

        return decode

    def squares(self, *, keep_ends: bool = True) -> "ImageCache":
        """A cache of the same images that gives their middle squares, and shares what is kept.

        keep_ends: decodes the ends, too, for whoever asks for whole images later. Without, an image
        takes less time, but is decoded again when it is asked for as a whole. In the cache folder
        images are always whole, because another split may train on them.
        """
        if not self._is_whole:
            return self
        squares = self.select(torch.arange(len(self.items), device="cpu"))
        squares._is_whole = False
        squares._keeps_ends = keep_ends
        return squares

    def unreadable(self) -> Iterator[tuple[int, ImageError]]:
        """Decodes all images that are not ready; yields number and error of each that fails."""

        def decoding_error(number: int) -> ImageError | None:
            try:
                self._decode(number)
            except ImageError as error:
                return error
            return None

        self._open()
        missing = np.flatnonzero(~self._is_ready[self._rows]).tolist()
        with self._decoders() as threads:
            errors = threads.map(decoding_error, missing)
            for number, error in zip(missing, errors, strict=True):
                if error is not None:
                    yield number, error

    def _decoders(self) -> ThreadPoolExecutor:
        """Threads for one use: those that outlive it would be missing in a forked process."""
        return ThreadPoolExecutor(self.num_workers, thread_name_prefix="decode")

    def select(self, indices: Tensor) -> "ImageCache":
        """A cache of the images with these numbers, which shares what is kept with this one."""
        subset = copy.copy(self)
        subset.items = select_items(self.items, indices.tolist())
        subset._parent, subset._numbers = self, indices.numpy()
        subset._lock = ForkSafeLock()
        subset._is_open = False
        return subset

    @property
    def _is_ready(self) -> np.ndarray:
        """Of which of the kept images there is all that this cache wants: bool [R]."""
        return self._has_ends if self._keeps_ends else self._has_square

    def _decode(self, number: int) -> Presized | None:
        """Decodes an image, and keeps it; or returns it, where there is no room."""
        source = self.items[number]
        if self._images is None:
            return self._presize(source)
        row = self._rows[number]
        has_ends = self._keeps_ends
        if self._store is None:
            self._images.put(row, *self._presize(source))
        else:
            assert isinstance(source, str | Path | PackedImage)
            self._store.fill(row, source, self._presize_whole)
            has_ends = True
        # only now that the pixels are there, for another thread may ask meanwhile
        self._has_square[row] = True
        self._has_ends[row] |= has_ends
        return None

    def _presize(self, source: ImageSource) -> Presized:
        if self._keeps_ends:
            whole = self._presize_whole(source)
            return whole, (whole.shape[0], whole.shape[1])
        return self.preprocessing.presize_middle(source, self._margin)

    def _presize_whole(self, source: ImageSource) -> np.ndarray:
        return self.preprocessing.presize(source, self._margin)

    def _open(self) -> None:
        """Chooses the place for the images, at first use.

        Not earlier, because data loaders also make caches for image sizes that are never used.
        """
        with self._lock.held():
            if self._is_open:
                return
            if self._parent is not None:
                self._share(self._parent)
            else:
                self._parts = _parts_of(self.items)
                self._store = self._open_store()
                if self._store is None:
                    self._allocate_room()
            self._is_open = True

    def _share(self, parent: "ImageCache") -> None:
        """Takes the place that the parent chose, or chooses now."""
        parent._open()
        self._images, self._store = parent._images, parent._store
        self._has_square, self._has_ends = parent._has_square, parent._has_ends
        self._rows = parent._rows[self._numbers]
        self._parts = None if parent._parts is None else parent._parts[self._numbers]

    def _open_store(self) -> ImageStore | None:
        """Opens the store in the cache folder; None where there is none for these images."""
        if self._folder is None:
            return None
        paths = _file_paths(self.items)
        if paths is None:
            return None
        # sorted: another split of the same files has the same store
        files = sorted(set(paths))
        preprocessing = self.preprocessing
        settings = f"{preprocessing.resize} {preprocessing.value_range}"
        store = self._folder.open(
            files, preprocessing.presized_size, self._margin, settings, preprocessing.channels
        )
        if store is None:
            return None
        row_of_file = {file: row for row, file in enumerate(files)}
        self._rows = np.fromiter((row_of_file[path] for path in paths), np.int64, len(paths))
        self._images = store.images
        self._has_square = np.zeros(len(files), bool)
        self._has_ends = np.zeros(len(files), bool)
        return store

    def _shape(self, count: int) -> tuple[int, int, int, int]:
        """Of the rows of so many images."""
        height, width = height_and_width(self.preprocessing.presized_size)
        return count, height + 2 * self._margin, width, self.preprocessing.channels

    def _allocate_room(self) -> None:
        """Takes room in memory or in a temporary file, if there is any."""
        count = len(self.items)
        shape = self._shape(count)
        size = math.prod(shape)
        self._has_square, self._has_ends = np.zeros(count, bool), np.zeros(count, bool)
        self._rows = np.arange(count)
        # all subsets share `_has_square`, so the memory is reserved until the last of them is gone
        if reserve(self._has_square, size):
            # pages that no image lies on take no memory
            self._images = ImageRows.to_be_filled(np.empty(shape, np.uint8), self._margin)
            return
        folder = self._folder.path if self._folder else Path(tempfile.gettempdir())
        pixels = _temporary_array(folder, shape, size)
        if pixels is not None:
            self._images = ImageRows.to_be_filled(pixels, self._margin)
        else:
            self._images = None
            problem = "are decoded anew in every epoch"
            if self._parts is not None:
                problem += ", with all that is read together with them"
            warn(
                f"{size / 1e9:.2f} GB of images fit neither into memory nor into a temporary "
                f"file in {str(folder)!r} and {problem}; pass a smaller image_size, or "
                "cache_folder= on a disk with more room"
            )


def _file_paths(items: Sequence[ImageSource]) -> list[str] | None:
    """Absolute names of the images; None unless all of them are files."""
    if isinstance(items, DatasetImages):  # its items would be read only to learn their type
        return None
    paths = []
    for item in items:
        name = file_name(item)
        if name is None:
            return None
        paths.append(name if isinstance(item, PackedImage) else os.path.abspath(name))
    return paths


def _parts_of(items: Sequence[ImageSource]) -> np.ndarray | None:
    """Numbers that are the same for images that are read together; None where none are."""
    if not isinstance(items, list | tuple):
        return None
    number_of_part: dict[Hashable, int] = {}
    parts = []
    for item in items:
        part = item.read_with if isinstance(item, PackedImage) else None
        if part is None:
            return None
        parts.append(number_of_part.setdefault(part, len(number_of_part)))
    return np.array(parts, np.int64)


def _temporary_array(folder: Path, shape: tuple[int, ...], size: int) -> np.ndarray | None:
    """A uint8 array in a file without a name, whose room is free again when the array is gone.

    size: in bytes. Returns None where that is more than `DISK_FRACTION` of the free space, where
    the folder is no better than memory, and where the file can't be written.
    """
    try:
        if _is_in_memory(folder) or size > DISK_FRACTION * shutil.disk_usage(folder).free:
            return None
        with tempfile.TemporaryFile(dir=folder) as file:
            allocate(file, size)
            return map_file(file, np.dtype(np.uint8), shape)
    except OSError:  # the disk fills up meanwhile, or can't be written
        return None


def _is_in_memory(folder: Path) -> bool:
    """Whether the folder is on a disk in memory; False where the platform doesn't tell."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return False
    filesystem_at: dict[str, str] = {}
    for line in lines:
        fields = line.split()
        filesystem_at[fields[1]] = fields[2]
    place = folder.resolve()
    # the nearest mount point above a folder is the one that the folder is on
    for path in (place, *place.parents):
        if str(path) in filesystem_at:
            return filesystem_at[str(path)] in ("tmpfs", "ramfs")
    return False
