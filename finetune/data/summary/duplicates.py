"""Images with the same content, within training and across training and validation."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.data.examples import Examples
from finetune.data.images.decode import ImageSource
from finetune.data.images.headers import Header

_CHUNK_BYTES = 1 << 20
_PART_NAMES = ("training", "validation")


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


class _Place(NamedTuple):
    """An example: part 0 is training, 1 is validation."""

    part: int
    number: int


def find_duplicates(
    parts: tuple[Examples, Examples], headers: Sequence[Sequence[Header]], threads: Executor
) -> tuple[tuple[Twins, ...], tuple[Twins, ...]]:
    """Twins within training, and those of an image in training and one in validation.

    Only files that have the size of another are read. Of k images that are the same, each but the
    first is a twin of the first.
    """
    candidates = _same_size(headers)
    digests = threads.map(lambda at: _digest(parts[at.part].items, at.number), candidates)
    by_digest: dict[bytes, list[_Place]] = defaultdict(list)
    for place, digest in zip(candidates, digests, strict=True):
        if digest is not None:
            by_digest[digest].append(place)
    duplicates: list[Twins] = []
    leaks: list[Twins] = []
    for places in by_digest.values():
        first = places[0]
        if first.part != 0:  # validation alone
            continue
        for place in places[1:]:
            twins = _twins(parts, first, place)
            if place.part == 0:
                duplicates.append(twins)
            else:
                leaks.append(twins)
    return tuple(duplicates), tuple(leaks)


def _same_size(headers: Sequence[Sequence[Header]]) -> list[_Place]:
    """The readable examples whose size another one has, those of training first."""
    sizes: Counter[tuple[bool, int]] = Counter()
    for part_headers in headers:
        sizes.update(_size(header) for header in part_headers)
    places = []
    for part, part_headers in enumerate(headers):
        for number, header in enumerate(part_headers):
            if header.error is None and sizes[_size(header)] > 1:
                places.append(_Place(part, number))
    return places


def _size(header: Header) -> tuple[bool, int]:
    """Bytes of a file are never compared with pixels in memory."""
    return header.format == "in memory", header.bytes


def _twins(parts: tuple[Examples, Examples], first: _Place, second: _Place) -> Twins:
    return Twins(
        _name(parts, first), _name(parts, second), _label(parts, first), _label(parts, second)
    )


def _name(parts: tuple[Examples, Examples], place: _Place) -> str:
    items = parts[place.part].items
    if isinstance(items, list):  # to look at another sequence's item may read it
        item = items[place.number]
        if isinstance(item, str | Path):
            return str(item)
    return f"{_PART_NAMES[place.part]} {place.number}"


def _label(parts: tuple[Examples, Examples], place: _Place) -> str:
    (label,) = parts[place.part].select(torch.tensor([place.number])).texts()
    return label


def _digest(items: Sequence[ImageSource], number: int) -> bytes | None:
    """Of the file's bytes, or of the pixels; None for what can't be read any more."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        source = items[number]
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        else:
            pixels = _pixels_of(source)
            digest.update(f"{pixels.shape} {pixels.dtype}".encode())
            digest.update(pixels.tobytes())
    except Exception:  # PIL raises OSError, SyntaxError, struct.error, ... for bad images
        return None
    return digest.digest()


def _pixels_of(source: "Image.Image | np.ndarray | Tensor") -> np.ndarray:
    if isinstance(source, Image.Image) and source.mode in ("P", "PA"):
        source = source.convert("RGBA")  # else the indices of two palettes would be compared
    if isinstance(source, Tensor):
        source = source.cpu()
    return np.ascontiguousarray(source)
