"""Fingerprints of data: which examples there are, with which targets, and in which batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.data.examples import Examples
from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.opening import ImageSource
from finetune.data.images.packed import PackedImage
from finetune.files import fingerprints
from finetune.files.fingerprints import Fingerprint

_IMAGES_READ = 500
"""Of images in memory, so many at equal distances are read; files are known by their names."""


def of_loader(name: str, loader: Any) -> Fingerprint:
    """The batches of a torch DataLoader, the data set behind it, and what its sampler draws from.

    name: which part of the data it is. Of another iterable only the number of batches is known.
    """
    fingerprint: Fingerprint = {f"{name} batches": len(loader)}
    batch_size = getattr(loader, "batch_size", None)
    if isinstance(batch_size, int):
        fingerprint[f"{name} batch size"] = batch_size
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return fingerprint
    fingerprint |= fingerprints.of_examples(f"{name} examples", dataset)
    sampler = getattr(loader, "sampler", None)
    if sampler is not None and hasattr(sampler, "__len__"):
        fingerprint |= fingerprints.of_examples(f"{name} samples", sampler)
    return fingerprint


def of_images(name: str, examples: Examples) -> Fingerprint:
    """How many images there are, which, and with which labels.

    Files are known by their names, relative to the folder that all of them are in; members of
    shards by theirs, so that a run goes on from other shards, or from the folder that was packed.
    """
    return {
        f"number of {name} images": len(examples),
        f"{name} images": _of_items(examples.items),
        f"{name} labels": fingerprints.of_texts([fingerprints.of_tensor(examples.labels)]),
    }


def _of_items(items: Sequence[ImageSource]) -> str:
    if isinstance(items, DatasetImages):
        dataset = fingerprints.of_examples("data set", items.dataset)
        return fingerprints.of_texts([*map(str, dataset.values()), *map(str, items.numbers)])
    if all(isinstance(item, str | Path | PackedImage) for item in items):
        return fingerprints.of_paths([_name_of(item) for item in items])
    step = max(1, len(items) // _IMAGES_READ)
    return fingerprints.of_texts(_of_item(item) for item in items[::step])


def _name_of(item: ImageSource) -> str:
    return item.name if isinstance(item, PackedImage) else str(item)


def _of_item(item: ImageSource) -> str:
    if isinstance(item, str | Path | PackedImage):
        return _name_of(item)
    if isinstance(item, bytes):
        item = np.frombuffer(item, np.uint8)
    if isinstance(item, Image.Image):
        item = np.asarray(item)
    if isinstance(item, np.ndarray):
        item = fingerprints.tensor_of_array(item)
    if isinstance(item, Tensor):
        return fingerprints.of_tensor(item)
    return type(item).__qualname__
