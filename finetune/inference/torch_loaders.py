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
from finetune.data.loaders import TorchLoader
from finetune.data.sources.datasets import classes_of, whole_of
from finetune.tasks import Task

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def unwrapped(loader: Any) -> Any:
    """The loader that the user gave."""
    return loader.loader if isinstance(loader, TorchLoader) else loader


def warn_of_disorder(loader: Any) -> None:
    """Rows are numbered as they come, which for a shuffled data set says nothing."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader if batch_sampler is None else batch_sampler, "sampler", None)
    problems = []
    if isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) is True:
        problems.append(
            f"its {type(sampler).__name__} changes the order, so that the rows' numbers "
            "are not those of the data set"
        )
    if getattr(batch_sampler, "drop_last", False) is True:
        problems.append("drop_last=True leaves out the last, short batch")
    if problems:
        warnings.warn(
            f"this {type(loader).__name__} is not read whole and in order: {'; '.join(problems)}; "
            "pass DataLoader(dataset, batch_size), without shuffle= or drop_last=",
            stacklevel=6,
        )


def paths_of(loader: Any) -> list[str] | None:
    """The file of each example; None where it is not known.

    It is known where the data set has (path, class) pairs, as torchvision's do, and is read whole
    and in order.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    if type(batch_sampler) is not BatchSampler or batch_sampler.drop_last:
        return None
    if type(batch_sampler.sampler) is not SequentialSampler:
        return None
    if loader.collate_fn is not default_collate:  # another one may leave examples out
        return None
    return _files_of(loader.dataset)


def _files_of(dataset: Any) -> list[str] | None:
    if isinstance(dataset, Subset):
        whole = _files_of(dataset.dataset)
        return None if whole is None else [whole[number] for number in dataset.indices]
    for name in ("samples", "imgs"):
        samples = getattr(dataset, name, None)
        if not isinstance(samples, list | tuple) or len(samples) != len(dataset):
            continue
        paths = []
        for sample in samples:
            is_sample = isinstance(sample, list | tuple) and len(sample) > 0
            if is_sample and isinstance(sample[0], str | Path):
                paths.append(str(sample[0]))
        if len(paths) == len(samples):
            return paths
    return None


def check_classes(
    task: Task,
    classes: tuple[str, ...] | None,
    known_loaders: Sequence[Any],
    loader: Any,
) -> None:
    """Raises ValueError for a data set whose class numbers have other names than the model's.

    classes: of the model. known_loaders: with whose data sets it was trained.
    """
    if task.names_are != "classes":
        return
    names = _class_names_of(loader)
    possible = [classes, *map(_class_names_of, known_loaders)]
    known = [known_names for known_names in possible if known_names]
    if names and known and names not in known:
        raise ValueError(
            f"this {type(loader).__name__} numbers its labels by the classes {', '.join(names)}; "
            f"those of the learner are {', '.join(known[0])}; give its data set the same ones, or "
            "a target_transform= that makes the learner's numbers of its own"
        )


def _class_names_of(loader: Any) -> tuple[str, ...] | None:
    """The classes by which the data set numbers its labels, if it tells."""
    items = getattr(loader, "items", None)
    dataset: Any = getattr(unwrapped(loader), "dataset", None)
    if isinstance(items, DatasetImages):
        dataset = items.dataset
    # what such a function gives need not be a number of these classes
    if getattr(whole_of(dataset), "target_transform", None) is not None:
        return None
    names = classes_of(dataset)
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        return None
    return tuple(map(str, names))
