"""What a torch DataLoader tells of its examples: their order, their files, their classes."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from finetune.data.images.dataset_images import DatasetImages
from finetune.data.loaders import DataLoaders, TorchLoader
from finetune.data.sources.datasets import classes_of, whole_of

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def unwrapped(loader: Any) -> Any:
    """The loader that the user gave."""
    return loader.loader if isinstance(loader, TorchLoader) else loader


def warn_of_disorder(loader: Any) -> None:
    """Rows are numbered as they come, which for a shuffled data set says nothing."""
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader if batches is None else batches, "sampler", None)
    found = []
    if isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) is True:
        found.append(
            f"its {type(sampler).__name__} changes the order, so that the rows' numbers "
            "are not those of the data set"
        )
    if getattr(batches, "drop_last", False) is True:
        found.append("drop_last=True leaves out the last, short batch")
    if found:
        warnings.warn(
            f"this {type(loader).__name__} is not read whole and in order: {'; '.join(found)}; "
            "pass DataLoader(dataset, batch_size), without shuffle= or drop_last=",
            stacklevel=6,
        )


def paths_of(loader: Any) -> list[str] | None:
    """The file of each example, where the data set has (path, class) pairs, as torchvision's do,
    and is read whole and in order."""
    batches = getattr(loader, "batch_sampler", None)
    if type(batches) is not BatchSampler or batches.drop_last:
        return None
    # another way to make batches may leave examples out
    if type(batches.sampler) is not SequentialSampler or loader.collate_fn is not default_collate:
        return None
    return _files(loader.dataset)


def _files(dataset: Any) -> list[str] | None:
    if isinstance(dataset, Subset):
        whole = _files(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    for name in ("samples", "imgs"):
        pairs = getattr(dataset, name, None)
        if isinstance(pairs, list | tuple) and len(pairs) == len(dataset):
            firsts = [pair[0] for pair in pairs if isinstance(pair, list | tuple) and pair]
            paths = [str(first) for first in firsts if isinstance(first, str | Path)]
            if len(paths) == len(pairs):
                return paths
    return None


def check_classes(data: DataLoaders, loader: Any) -> None:
    """Raises ValueError for a data set whose class numbers have other names than the learner's."""
    found = None if data.task == "regression" else _names(loader)
    own = [data.classes, *map(_names, (data.train, data.valid))]
    known = [names for names in own if names]
    if found and known and found not in known:
        raise ValueError(
            f"this {type(loader).__name__} numbers its labels by the classes {', '.join(found)}; "
            f"those of the learner are {', '.join(known[0])}; give its data set the same ones, or "
            "a target_transform= that makes the learner's numbers of its own"
        )


def _names(loader: Any) -> tuple[str, ...] | None:
    """The classes by which the data set numbers its labels, if it tells."""
    items = getattr(loader, "items", None)
    given = getattr(unwrapped(loader), "dataset", None)
    dataset: Any = items.dataset if isinstance(items, DatasetImages) else given
    names = classes_of(dataset)
    # what such a function gives need not be a number of these classes
    if getattr(whole_of(dataset), "target_transform", None) is not None or isinstance(names, str):
        return None
    return tuple(map(str, names)) if isinstance(names, Sequence | np.ndarray) else None
