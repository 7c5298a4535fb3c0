"""Examples from lists of images and labels, with or without marks of validation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.examples import Examples
from finetune.data.images.decode import ImageSource
from finetune.data.sources.folders import image_files
from finetune.tasks import DEFAULT_TASK, Task, TaskLike, resolve_task
from finetune.tasks.labels import class_names, python_values


def by_position(items: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """The images by their positions: `items[i]` of a data frame's column goes by its index."""
    if isinstance(items, Sequence | np.ndarray | Tensor):
        return items
    return list(items)


def from_pairs(
    items: Sequence[ImageSource],
    labels: Sequence[Any],
    classes: Sequence[str] | None = None,
    task: TaskLike = DEFAULT_TASK,
    *,
    of_training: bool = True,
) -> Examples:
    """Examples from images and labels, see `Task.encode`; classes in sorted order unless given.

    of_training: `classes` are those that training has. Raises ValueError for no example, and for
    labels that are none for the task.
    """
    task = resolve_task(task)
    if len(items) != len(labels):
        raise ValueError(f"got {len(items)} images but {len(labels)} labels")
    if not len(items):
        raise ValueError("there are no images")
    targets, names = task.encode(labels, classes, of_training=of_training)
    return Examples(by_position(items), targets, names, task)


def from_marked(
    items: Sequence[ImageSource],
    labels: Sequence[Any],
    is_valid: Sequence[bool] | None,
    valid_fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    task: TaskLike = DEFAULT_TASK,
) -> tuple[Examples, Examples]:
    """Training and validation examples, as `is_valid` marks them or else split at random."""
    task = resolve_task(task)
    if is_valid is None:
        whole = from_pairs(items, labels, classes, task, of_training=False)
        return whole.split(valid_fraction, seed)
    if not len(is_valid) == len(items) == len(labels):
        raise ValueError(
            f"got {len(items)} images, {len(labels)} labels and {len(is_valid)} marks of validation"
        )
    marks = [bool(mark) for mark in is_valid]
    if all(marks) or not any(marks):
        side = "validation" if all(marks) else "training"
        raise ValueError(f"all {len(marks)} images are marked for {side}")
    labels = python_values(labels)
    if task.exclusive:
        labels = class_names(labels)  # before they are parted: its errors number the images
    train_items, train_labels = _marked(items, labels, marks, mark=False)
    valid_items, valid_labels = _marked(items, labels, marks, mark=True)
    train = from_pairs(train_items, train_labels, classes, task, of_training=False)
    valid = from_pairs(valid_items, valid_labels, train.classes, task)
    numbers, is_held_out = torch.arange(len(marks)), torch.tensor(marks)
    return (
        replace(train, numbers=numbers[~is_held_out]),
        replace(valid, numbers=numbers[is_held_out]),
    )


def _marked(
    items: Sequence[ImageSource], labels: Sequence[Any], marks: Sequence[bool], *, mark: bool
) -> tuple[list[ImageSource], list[Any]]:
    """Images and labels of the examples that have this mark."""
    marked_items: list[ImageSource] = []
    marked_labels: list[Any] = []
    for item, label, own_mark in zip(items, labels, marks, strict=True):
        if own_mark == mark:
            marked_items.append(item)
            marked_labels.append(label)
    return marked_items, marked_labels


def without_labels(
    items: str | Path | Sequence[ImageSource], classes: tuple[str, ...], task: Task
) -> Examples:
    """Examples without labels: the images in and below a folder, or a sequence of images."""
    if isinstance(items, str | Path):
        items = image_files(items)
    if not len(items):
        raise ValueError("there are no images to predict")
    return Examples(by_position(items), task.unlabelled(len(items), classes), classes, task)
