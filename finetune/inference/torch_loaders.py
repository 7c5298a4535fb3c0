"""What a torch DataLoader says of its examples: their order, their files, their classes."""

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
from finetune.wording import warn

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def unwrapped(loader: Any) -> Any:
    """The loader that the user passed, without our wrapper."""
    if isinstance(loader, TorchLoader):
        return loader.loader
    return loader


def warn_of_disorder(loader: Any) -> None:
    """Warns of a loader that shuffles its data set or leaves out a part of it.

    Rows are numbered in the order in which they come, so that the numbers would mislead.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    # a loader made with batch_size=None has no batch sampler
    sampler = getattr(loader if batch_sampler is None else batch_sampler, "sampler", None)
    # torch's DistributedSampler says by an attribute whether it shuffles
    is_shuffled = isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) is True
    problems = []
    if is_shuffled:
        problems.append(
            f"its {type(sampler).__name__} changes the order, so that the rows' numbers "
            "are not those of the data set"
        )
    if getattr(batch_sampler, "drop_last", False) is True:
        problems.append("drop_last=True leaves out the last, short batch")
    if problems:
        warn(
            f"this {type(loader).__name__} is not read whole and in order: {'; '.join(problems)}; "
            "pass DataLoader(dataset, batch_size), without shuffle= or drop_last="
        )


def paths_of(loader: Any) -> list[str] | None:
    """The file of each example, or None if the files are not known.

    They are known if the data set has (path, class) pairs, as torchvision's have, and the loader
    reads it whole and in order.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    if type(batch_sampler) is not BatchSampler or batch_sampler.drop_last:
        return None
    if type(batch_sampler.sampler) is not SequentialSampler:
        return None
    # another collate function may leave examples out
    if loader.collate_fn is not default_collate:
        return None
    return _files_of(loader.dataset)


def _files_of(dataset: Any) -> list[str] | None:
    """The file of each example of a data set, or None if it does not say."""
    if isinstance(dataset, Subset):
        files = _files_of(dataset.dataset)
        if files is None:
            return None
        return [files[number] for number in dataset.indices]
    # torchvision's names for the list of (path, class) pairs
    for attribute in ("samples", "imgs"):
        samples = getattr(dataset, attribute, None)
        if not isinstance(samples, list | tuple) or len(samples) != len(dataset):
            continue
        if all(map(_begins_with_a_path, samples)):
            return [str(sample[0]) for sample in samples]
    return None


def _begins_with_a_path(sample: Any) -> bool:
    if not isinstance(sample, list | tuple) or not sample:
        return False
    return isinstance(sample[0], str | Path)


def check_classes(
    task: Task,
    classes: tuple[str, ...] | None,
    known_loaders: Sequence[Any],
    loader: Any,
) -> None:
    """Raises ValueError for a data set whose class numbers have other names than the model's.

    classes: those of the model. known_loaders: the loaders that the model was trained with; a data
    set may have the class names of one of them instead.
    """
    if task.names_are != "classes":
        return
    names = _class_names_of(loader)
    candidates = [classes, *map(_class_names_of, known_loaders)]
    accepted = [candidate for candidate in candidates if candidate]
    if not names or not accepted:
        return
    if names not in accepted:
        raise ValueError(
            f"this {type(loader).__name__} numbers its labels by the classes {', '.join(names)}; "
            f"those of the learner are {', '.join(accepted[0])}; give its data set the same "
            "ones, or a target_transform= that makes the learner's numbers of its own"
        )


def _class_names_of(loader: Any) -> tuple[str, ...] | None:
    """The classes by which a loader's data set numbers its labels, or None if it does not say."""
    items = getattr(loader, "items", None)
    dataset: Any = getattr(unwrapped(loader), "dataset", None)
    if isinstance(items, DatasetImages):
        dataset = items.dataset
    # a function of the targets may return numbers of other classes
    if getattr(whole_of(dataset), "target_transform", None) is not None:
        return None
    names = classes_of(dataset)
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        return None
    return tuple(map(str, names))
