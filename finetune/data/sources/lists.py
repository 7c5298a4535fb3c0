"""Examples from lists of images and labels, with or without marks of validation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import arguments
from finetune.data.examples import Examples
from finetune.data.groups import Groups, groups_of
from finetune.data.images.opening import ImageSource
from finetune.data.sources.folders import image_files
from finetune.data.sources.marks import are_marked
from finetune.tasks import DEFAULT_TASK, Task, TaskLike, resolve_task
from finetune.tasks.labels import class_names, python_values


def by_position(items: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """A sequence whose `[i]` is the image at position i.

    `[i]` of a data frame's column is the image whose index label is i instead, so that such a
    column becomes a list. So does an array of paths or other objects: only numbers are pixels.
    """
    if isinstance(items, np.ndarray) and items.dtype.kind in "OU":
        listed_items: list[ImageSource] = items.tolist()
        return listed_items
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
    """Examples from images and their labels.

    labels: one for each image, in the form that the task needs, see `Task.encode`. classes: names
    in the order of the model's outputs; None sorts the names that occur. of_training: whether
    `classes` are those of the training data, for the words of errors. Raises ValueError for no
    image, for another number of labels, and for labels that the task can't use.
    """
    task = resolve_task(task)
    if len(items) != len(labels):
        raise ValueError(
            f"got {len(items)} images but {len(labels)} labels; each image needs one, in its order"
        )
    if len(items) == 0:
        raise ValueError("there are no images: the list or table that was passed is empty")
    targets, names = task.encode(labels, classes, of_training=of_training)
    return Examples(by_position(items), targets, names, task)


def from_marked(
    items: Sequence[ImageSource],
    labels: Sequence[Any],
    is_valid: Sequence[Any] | None,
    valid_fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    task: TaskLike = DEFAULT_TASK,
    groups: Groups | None = None,
    root: str | Path | None = None,
) -> tuple[Examples, Examples]:
    """Training and validation examples, from images of which some may be marked for validation.

    is_valid: which images are for validation, see `is_marked`; None draws a share of
    `valid_fraction` at random, the same for the same seed. classes, task: see `from_pairs`.
    groups: see `groups_of`. root: see `Examples.split`. Raises ValueError where all images or none
    are marked.
    """
    task = resolve_task(task)
    arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
    if classes is not None:
        arguments.sequence("classes", classes, "class names")
    if is_valid is None:
        whole = from_pairs(items, labels, classes, task, of_training=False)
        return whole.in_groups(groups, root).split(valid_fraction, seed, root=root)
    arguments.sequence("is_valid", is_valid, "True and False, one for each image")
    if not len(is_valid) == len(items) == len(labels):
        raise ValueError(
            f"got {len(items)} images, {len(labels)} labels and {len(is_valid)} marks of "
            "is_valid; each image needs a label and a mark"
        )
    marks = are_marked(is_valid)
    if all(marks) or not any(marks):
        side = "validation" if all(marks) else "training"
        raise ValueError(
            f"all {len(marks)} images are marked for {side}; mark some for validation and some for "
            "training, or leave the marks out for a random split"
        )
    labels = python_values(labels)
    if task.exclusive:
        # before the split, because errors number the images as the user does
        labels = class_names(labels)
    train_items, train_labels = _marked(items, labels, marks, mark=False)
    valid_items, valid_labels = _marked(items, labels, marks, mark=True)
    train = from_pairs(train_items, train_labels, classes, task, of_training=False)
    valid = from_pairs(valid_items, valid_labels, train.classes, task)
    numbers = torch.arange(len(marks))
    is_held_out = torch.tensor(marks)
    train = replace(train, numbers=numbers[~is_held_out])
    valid = replace(valid, numbers=numbers[is_held_out])
    if groups is None:
        return train, valid
    names = groups_of(by_position(items), groups, root)
    return train.in_groups(_at(names, train)), valid.in_groups(_at(names, valid))


def _at(names: Sequence[str], examples: Examples) -> list[str]:
    """Those of the names that belong to the examples, by their numbers."""
    assert examples.numbers is not None
    return [names[number] for number in examples.numbers.tolist()]


def _marked(
    items: Sequence[ImageSource], labels: Sequence[Any], marks: Sequence[bool], *, mark: bool
) -> tuple[list[ImageSource], list[Any]]:
    """Images and labels of the examples whose mark is `mark`."""
    marked_items: list[ImageSource] = []
    marked_labels: list[Any] = []
    for item, label, item_mark in zip(items, labels, marks, strict=True):
        if item_mark == mark:
            marked_items.append(item)
            marked_labels.append(label)
    return marked_items, marked_labels


def without_labels(
    items: str | Path | Sequence[ImageSource], classes: tuple[str, ...], task: Task
) -> Examples:
    """Examples without labels: the images in and below a folder, or a sequence of images."""
    if isinstance(items, str | Path):
        items = image_files(items)
    arguments.sequence("items", items, "images, or a folder")
    if len(items) == 0:
        raise ValueError("there are no images to predict: the list that was passed is empty")
    labels = task.unlabelled(len(items), classes)
    return Examples(by_position(items), labels, classes, task)
