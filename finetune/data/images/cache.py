"""Presized uint8 images, decoded once by a few threads and kept where there is room for them."""

import copy
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.dataset_images import DatasetImages, select_items
from finetune.data.images.decode import ImageError, ImageSource
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.store import CacheFolder, ImageStore, allocate, map_file
from finetune.data.memory import reserve

DISK_FRACTION = 0.5
"""Share of the free disk space that a temporary file may take."""


class ImageCache:
    """Images by number, decoded when first asked for.

    Threads decode, whose number changes no result: PIL works outside the interpreter lock, so that
    two are as fast as two processes would be (2.0 and 1.95 s for 3,068 photos).
    The images are kept, from the first use on, in the first place that has room for all:
    the folder, where one is given and all images are files; memory, as `reserve` grants it; a
    nameless temporary file, in the folder or else where temporary files go, which ends with the
    cache. Where there is none, every epoch decodes anew, with a warning.

    folder: keeps images between runs. others: images of the same data set, kept together with
    these, so that another split of it finds them.
    """

    _images: np.ndarray | None  # uint8 [R, S, S, 3]; None where there is no room
    _there: np.ndarray  # bool [R]: which of them can be used
    _rows: np.ndarray  # int64 [N]: where each example's image is
    _store: ImageStore | None  # what keeps the images between runs

    def __init__(
        self,
        items: Sequence[ImageSource],
        preprocessing: Preprocessing,
        workers: int,
        *,
        folder: CacheFolder | None = None,
        others: Sequence[ImageSource] = (),
    ) -> None:
        self.items, self.preprocessing, self.workers = items, preprocessing, workers
        self._folder, self._others = folder, others
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._lock, self._is_open = threading.Lock(), False

    def images(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] in channels-last layout. Raises ImageError for an unreadable one."""
        self._open()
        numbers = indices.numpy()
        rows = self._rows[numbers]
        missing = np.unique(numbers[~self._there[rows]]).tolist()
        made = dict(zip(missing, self._threads.map(self._make, missing), strict=True))
        if self._images is not None:
            batch = self._images[rows]
        else:
            side = self.preprocessing.presized_side
            batch = np.empty((len(numbers), side, side, 3), dtype=np.uint8)
            for i, number in enumerate(numbers.tolist()):
                batch[i] = made[number]
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def unreadable(self) -> Iterator[tuple[int, ImageError]]:
        """Decodes what isn't there yet and yields what can't be decoded."""

        def attempt(number: int) -> ImageError | None:
            try:
                self._make(number)
            except ImageError as error:
                return error
            return None

        self._open()
        missing = np.flatnonzero(~self._there[self._rows]).tolist()
        outcomes = zip(missing, self._threads.map(attempt, missing), strict=True)
        yield from ((number, error) for number, error in outcomes if error is not None)

    def select(self, indices: Tensor) -> "ImageCache":
        """A cache of some of the images, which it shares with this one."""
        self._open()
        subset = copy.copy(self)
        subset.items = select_items(self.items, indices.tolist())
        subset._rows = self._rows[indices.numpy()]
        return subset

    def _make(self, number: int) -> np.ndarray:
        """The image, uint8 [S, S, 3], which is kept where there is room."""
        source = self.items[number]
        if self._images is None:
            return self.preprocessing.presize(source)
        row = self._rows[number]
        kept: np.ndarray = self._images[row]
        if self._store is None:
            kept[...] = self.preprocessing.presize(source)
        else:
            assert isinstance(source, str | Path)
            self._store.fill(row, source, self.preprocessing.presize)
        self._there[row] = True  # after its pixels, for another thread may look
        return kept

    def _open(self) -> None:
        """Chooses the place at first use: loaders have caches for sizes that are never used."""
        with self._lock:
            if not self._is_open:
                self._store = self._open_store()
                if self._store is None:
                    self._open_room()
                self._is_open = True

    def _open_store(self) -> ImageStore | None:
        if self._folder is None:
            return None
        own, others = _paths(self.items), _paths(self._others)
        if own is None or others is None:
            return None
        files = sorted({*own, *others})
        preprocessing = self.preprocessing
        store = self._folder.open(files, preprocessing.presized_side, preprocessing.resize)
        if store is not None:
            row = {file: i for i, file in enumerate(files)}
            self._rows = np.fromiter((row[file] for file in own), np.int64, len(own))
            self._images, self._there = store.images, np.zeros(len(files), bool)
        return store

    def _open_room(self) -> None:
        """Room in memory or in a temporary file, if there is any."""
        count, side = len(self.items), self.preprocessing.presized_side
        shape, size = (count, side, side, 3), count * side * side * 3
        self._there, self._rows = np.zeros(count, bool), np.arange(count)
        if reserve(self._there, size):  # all subsets share `_there`, as they share the images
            self._images = np.empty(shape, np.uint8)
            return
        folder = self._folder.path if self._folder else Path(tempfile.gettempdir())
        self._images = _temporary(folder, shape, size)
        if self._images is None:
            warnings.warn(
                f"{size / 1e9:.2f} GB of images fit neither into memory nor into a temporary "
                f"file in {str(folder)!r} and are decoded anew in every epoch; pass a smaller "
                "image_size, or cache_folder= on a disk with more room",
                stacklevel=2,
            )


def _paths(items: Sequence[ImageSource]) -> list[str] | None:
    """Absolute paths of the images; None if one of them is no file."""
    if isinstance(items, DatasetImages):  # to look at an item would read it
        return None
    paths = [os.path.abspath(item) for item in items if isinstance(item, str | Path)]
    return paths if len(paths) == len(items) else None


def _temporary(folder: Path, shape: tuple[int, ...], size: int) -> np.ndarray | None:
    """A file without a name, mapped; its room is free again when nobody holds the array.

    None where `size` bytes are more than `DISK_FRACTION` of the free space, or not on a disk.
    """
    try:
        if _in_memory(folder) or size > DISK_FRACTION * shutil.disk_usage(folder).free:
            return None
        with tempfile.TemporaryFile(dir=folder) as file:
            allocate(file, size)
            return map_file(file, np.dtype(np.uint8), shape)
    except OSError:  # it fills up meanwhile, or can't be written
        return None


def _in_memory(folder: Path) -> bool:
    """Whether the folder is on a disk in memory; False where the platform doesn't tell."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return False
    kinds = {fields[1]: fields[2] for fields in map(str.split, lines)}
    place = folder.resolve()
    mounts = (str(path) for path in (place, *place.parents) if str(path) in kinds)
    return kinds.get(next(mounts, ""), "") in ("tmpfs", "ramfs")
