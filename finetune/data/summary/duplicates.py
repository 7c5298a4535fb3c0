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
from finetune.data.images.decode import read_image
from finetune.data.images.headers import Header
from finetune.data.images.opening import ImageSource, file_name
from finetune.data.images.packed import PackedImage

_CHUNK_BYTES = 1 << 20
_SPLIT_NAMES = ("training", "validation")


@dataclass(frozen=True, slots=True)
class Twins:
    """Two images with the same content, and their labels in words.

    first, second: the path of each image; for an image without one, where it is, such as
    "training 7".
    """

    first: str
    second: str
    first_label: str
    second_label: str

    @property
    def is_conflict(self) -> bool:
        """Whether the same image has two labels."""
        return self.first_label != self.second_label


class _Place(NamedTuple):
    """Where an example is.

    split: 0 is training, 1 is validation. number: the example's position there.
    """

    split: int
    number: int


def find_duplicates(
    splits: tuple[Examples, Examples], headers: Sequence[Sequence[Header]], threads: Executor
) -> tuple[tuple[Twins, ...], tuple[Twins, ...]]:
    """Finds images with the same content: files by their bytes, images in memory by their pixels.

    splits: training and validation. headers: of the images in both. Only files that have the size
    of another one are read. Of k images that are the same, each but the first is a twin of the
    first. Returns the twins within training, and those of an image in training and one in
    validation.
    """
    candidates = _same_size(headers)

    def digest_at(place: _Place) -> bytes | None:
        return _digest(splits[place.split].items, place.number)

    digests = threads.map(digest_at, candidates)
    places_of: dict[bytes, list[_Place]] = defaultdict(list)
    for place, digest in zip(candidates, digests, strict=True):
        if digest is not None:
            places_of[digest].append(place)
    duplicates: list[Twins] = []
    leaks: list[Twins] = []
    for first, *copies in places_of.values():
        if first.split != 0:  # training comes first, so none of these images is in training
            continue
        for place in copies:
            twins = _twins(splits, first, place)
            if place.split == 0:
                duplicates.append(twins)
            else:
                leaks.append(twins)
    return tuple(duplicates), tuple(leaks)


def _same_size(headers: Sequence[Sequence[Header]]) -> list[_Place]:
    """The readable examples whose size another one has, those of training first."""
    counts: Counter[tuple[bool, int]] = Counter()
    for split_headers in headers:
        counts.update(_size(header) for header in split_headers)
    places = []
    for split, split_headers in enumerate(headers):
        for number, header in enumerate(split_headers):
            if header.error is None and counts[_size(header)] > 1:
                places.append(_Place(split, number))
    return places


def _size(header: Header) -> tuple[bool, int]:
    """Whether the image is in memory, and its size in bytes or else pixels.

    Bytes of a file and pixels in memory are never compared.
    """
    return header.format == "in memory", header.bytes


def _twins(splits: tuple[Examples, Examples], first: _Place, second: _Place) -> Twins:
    return Twins(
        first=_name(splits, first),
        second=_name(splits, second),
        first_label=_label(splits, first),
        second_label=_label(splits, second),
    )


def _name(splits: tuple[Examples, Examples], place: _Place) -> str:
    """The path of an image; for one without a path, where it is."""
    items = splits[place.split].items
    if isinstance(items, list):  # an item of another kind of sequence might have to be decoded
        name = file_name(items[place.number])
        if name is not None:
            return name
    return f"{_SPLIT_NAMES[place.split]} {place.number}"


def _label(splits: tuple[Examples, Examples], place: _Place) -> str:
    example = splits[place.split].select(torch.tensor([place.number]))
    (label,) = example.texts()
    return label


def _digest(items: Sequence[ImageSource], number: int) -> bytes | None:
    """A digest of a file's bytes, or of the pixels of an image in memory.

    None for an image that can't be read any more.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        source = items[number]
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        elif isinstance(source, PackedImage):
            digest.update(source.content())
        else:
            pixels = _pixels_of(source)
            digest.update(f"{pixels.shape} {pixels.dtype}".encode())
            digest.update(pixels.tobytes())
    except Exception:  # PIL raises OSError, SyntaxError, struct.error, ... for bad images
        return None
    return digest.digest()


def _pixels_of(source: ImageSource) -> np.ndarray:
    """The values of an image in memory, as an array of any shape."""
    if isinstance(source, Image.Image) and source.mode in ("P", "PA"):
        # pixels of these modes are numbers of colours, which mean nothing without the palette
        source = source.convert("RGBA")
    if isinstance(source, Tensor):
        source = source.cpu()
    elif not isinstance(source, Image.Image | np.ndarray):  # the content of a file
        source = read_image(source)
    return np.ascontiguousarray(source)
