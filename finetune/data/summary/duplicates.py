"""Images with the same content, within training and across training and validation."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.data.examples import Examples
from finetune.data.images.decode import ImageSource
from finetune.data.images.headers import Header

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Twins:
    """Two images with the same bytes, and their labels. Those without a path are numbered."""

    first: str
    second: str
    first_label: str
    second_label: str

    @property
    def is_conflict(self) -> bool:
        """Whether the same image has two labels."""
        return self.first_label != self.second_label


def find_duplicates(
    parts: tuple[Examples, Examples], headers: Sequence[Sequence[Header]], threads: Executor
) -> tuple[tuple[Twins, ...], tuple[Twins, ...]]:
    """Twins within training, and those of one in training and one in validation.

    Only what has the size of another is read. Of k images that are the same, each but the first
    is a twin of the first.
    """
    sizes = Counter((h.format == "in memory", h.bytes) for part in headers for h in part)
    candidates = [
        (side, number)
        for side, part in enumerate(headers)
        for number, h in enumerate(part)
        if h.error is None and sizes[h.format == "in memory", h.bytes] > 1
    ]
    digests = threads.map(lambda at: _digest(parts[at[0]].items, at[1]), candidates)
    same: dict[bytes, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for (side, number), digest in zip(candidates, digests, strict=True):
        if digest is not None:
            same[digest][side].append(number)
    duplicates: list[Twins] = []
    leaks: list[Twins] = []
    for train, valid in same.values():
        duplicates += (_twins(parts, (0, train[0]), (0, other)) for other in train[1:])
        leaks += (_twins(parts, (0, train[0]), (1, other)) for other in valid if train)
    return tuple(duplicates), tuple(leaks)


def _twins(
    parts: tuple[Examples, Examples], first: tuple[int, int], second: tuple[int, int]
) -> Twins:
    names, labels = [], []
    for side, number in (first, second):
        part = parts[side]
        item = part.items[number] if isinstance(part.items, list) else None
        is_file = isinstance(item, str | Path)
        names.append(str(item) if is_file else f"{('training', 'validation')[side]} {number}")
        labels += part.select(torch.tensor([number])).texts()
    return Twins(*names, *labels)


def _digest(items: Sequence[ImageSource], number: int) -> bytes | None:
    """Of the file's bytes, or of the pixels; None for what can't be read any more."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        source = items[number]
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        else:
            if isinstance(source, Image.Image) and source.mode in ("P", "PA"):
                source = source.convert("RGBA")  # else two palettes' indices would be compared
            pixels = np.ascontiguousarray(source.cpu() if isinstance(source, Tensor) else source)
            digest.update(f"{pixels.shape} {pixels.dtype}".encode())
            digest.update(pixels.tobytes())
    except Exception:  # PIL raises OSError, SyntaxError, struct.error, ... for bad images
        return None
    return digest.digest()
