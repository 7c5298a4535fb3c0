"""Presized uint8 pictures, decoded once by a few threads and kept in memory while they fit."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.decode import ImageError
from finetune.data.examples import Examples
from finetune.data.preprocessing import Preprocessing

MEMORY_FRACTION = 0.25
"""Share of the machine's memory that the pictures of one data set may take."""


class ImageCache:
    """Pictures by number, decoded when first asked for.

    Threads decode (PIL works outside the interpreter lock), so that their number changes no result.
    Beyond `MEMORY_FRACTION` of the machine's memory nothing is kept and every epoch decodes anew.
    """

    def __init__(self, examples: Examples, preprocessing: Preprocessing, workers: int) -> None:
        self.examples, self.preprocessing, self.workers = examples, preprocessing, workers
        side = preprocessing.presized_side
        self._shape = (side, side, 3)
        fits = len(examples) * side * side * 3 <= MEMORY_FRACTION * _memory_bytes()
        count = len(examples) if fits else 0
        self._images = np.empty((count, *self._shape), dtype=np.uint8)
        self._there = np.zeros(len(examples), dtype=bool)
        self._pool: ThreadPoolExecutor | None = None

    def images(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] in channels-last layout. Raises ImageError for an unreadable one."""
        wanted = indices.numpy()
        missing = np.unique(wanted[~self._there[wanted]]).tolist()
        pictures = dict(zip(missing, self._threads().map(self._decode, missing), strict=True))
        if len(self._images):
            for number, picture in pictures.items():
                self._images[number] = picture
                self._there[number] = True
            batch = self._images[wanted]
        else:
            batch = np.empty((len(wanted), *self._shape), dtype=np.uint8)
            for row, number in enumerate(wanted.tolist()):
                batch[row] = pictures[number]
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def unreadable(self) -> Iterator[tuple[int, ImageError]]:
        """Decodes everything once and yields what can't be decoded."""

        def attempt(number: int) -> ImageError | None:
            try:
                picture = self._decode(number)
            except ImageError as error:
                return error
            if len(self._images):
                self._images[number] = picture
                self._there[number] = True
            return None

        outcomes = self._threads().map(attempt, range(len(self.examples)))
        yield from ((i, error) for i, error in enumerate(outcomes) if error is not None)

    def _decode(self, number: int) -> np.ndarray:
        return self.preprocessing.presize(self.examples.items[number])

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        return self._pool


def _memory_bytes() -> int:
    """The machine's memory, or the container's where that is less."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        installed = 8 << 30
    limits = [installed]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(Path(file).read_text()))
    return min(limits)
