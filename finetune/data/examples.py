"""Examples(items, labels), and where they come from: a folder, or lists."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.decode import EXTENSIONS, ImageSource
from finetune.randomness import generator
from finetune.tasks.labels import encode, numbered, plain, texts, words
from finetune.tasks.task import Task

_SUFFIXES = tuple(sorted(EXTENSIONS))
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their labels.

    labels: [N] int64, indices into `classes`; for several labels an image float32 [N, C], 0 and 1;
    for a regression float32 [N, K], and `classes` are the names of the K targets. numbers: [N]
    int64, where each was in what the user gave, before it was split; None: where it is here.
    """

    items: Sequence[ImageSource]
    labels: Tensor
    classes: tuple[str, ...]
    task: Task = "single_label"
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Tensor) -> "Examples":
        items, positions = self.items, indices.tolist()
        if isinstance(items, DatasetImages):  # reading an image can wait
            items = items.select(positions)
        else:
            items = [items[i] for i in positions]
        numbers = torch.arange(len(self)) if self.numbers is None else self.numbers
        return replace(self, items=items, labels=self.labels[indices], numbers=numbers[indices])

    def counts(self) -> list[int]:
        """How many images each class has; none for a regression."""
        if self.task == "single_label":
            found: list[int] = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
            return found
        return [] if self.task == "regression" else self.labels.sum(dim=0).int().tolist()

    def texts(self) -> list[str]:
        """Each label in words."""
        return texts(self.labels, self.classes, self.task)

    def split(self, valid_fraction: float, seed: int) -> tuple["Examples", "Examples"]:
        """A random split that is the same for the same seed, with `valid_fraction` of each class.

        Every class keeps at least one training example, and has one for validation if it has two.
        Where images have several labels, or numbers, the fraction is of all of them.
        """
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction needs 0 < valid_fraction < 1, got {valid_fraction}")
        held_out = []
        if self.task == "single_label":
            # sorted once: a search per class would read all labels as often as there are classes
            by_class = torch.from_numpy(np.argsort(self.labels.numpy(), kind="stable"))
            strata = torch.split(by_class, self.counts())
        else:
            strata = (torch.arange(len(self)),)
        for label, members in enumerate(strata):
            order = torch.randperm(len(members), generator=generator(seed, "split", label))
            count = min(max(round(valid_fraction * len(members)), 1), len(members) - 1)
            held_out.append(members[order[: max(count, 0)]])
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[torch.cat(held_out)] = True
        return self.select(torch.nonzero(~chosen).flatten()), self.select(
            torch.nonzero(chosen).flatten()
        )


def in_order(items: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """The images by position: `items[i]` of a data frame's column goes by its index, instead."""
    is_plain = isinstance(items, Sequence | np.ndarray | Tensor)
    return items if is_plain else list(items)


def from_pairs(
    items: Sequence[ImageSource],
    labels: Sequence[Any],
    classes: Sequence[str] | None = None,
    task: Task = "single_label",
    *,
    of_training: bool = True,
) -> Examples:
    """Examples from images and labels, see `encode`; classes in sorted order unless given.

    Raises ValueError for no example, one class, classes that differ only in case, or a label
    that `classes` lacks. of_training: `classes` are those that training has.
    """
    if len(items) != len(labels):
        raise ValueError(f"got {len(items)} images but {len(labels)} labels")
    if not len(items):
        raise ValueError("there are no images")
    return Examples(in_order(items), *encode(labels, classes, task, of_training=of_training), task)


def from_folder(folder: Path, classes: Sequence[str] | None = None) -> Examples:
    """Examples from `folder/<class>/**/<image>`, in sorted order; hidden files are left out."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"image folder {str(folder)!r} {what}; it needs one folder a class")
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ValueError(f"{str(folder)!r} has no class folders; put images in {folder}/<class>/")
    if classes is None and set(map(str.lower, names)) <= _SPLIT_NAMES:
        train = next((name for name in names if name.lower().startswith("train")), names[0])
        rest = [name for name in names if name != train]
        valid = next((name for name in rest if name.lower().startswith("val")), [*rest, "valid"][0])
        raise ValueError(
            f"{str(folder)!r} holds {' and '.join(names)}, which looks like a given split, not "
            f"like classes; pass train={train!r}, valid={valid!r}"
        )
    items: list[ImageSource] = []
    counts: list[int] = []
    for name in names:
        files = sorted(_image_files(str(folder / name)))
        if not files:
            raise ValueError(
                f"class folder {str(folder / name)!r} holds no image; remove or fill it"
            )
        items += files
        counts.append(len(files))
    classes, index = numbered(names, classes)
    labels = torch.tensor([index[name] for name in names])
    return Examples(items, labels.repeat_interleave(torch.tensor(counts)), classes)


def image_files(folder: str | Path) -> list[str]:
    """The images in and below a folder, sorted. Raises FileNotFoundError, or ValueError for none.

    Hidden files and folders are left out.
    """
    if not Path(folder).is_dir():
        what = "is a file" if Path(folder).exists() else "does not exist"
        raise FileNotFoundError(f"image folder {str(folder)!r} {what}")
    files = sorted(_image_files(str(folder)))
    if not files:
        raise ValueError(f"there is no image in {str(folder)!r} or below")
    return files


def _image_files(folder: str) -> list[str]:
    """The images in and below `folder`, in no order; made for a million, so strings throughout."""
    files, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():  # costs no stat, but for links
                    folders.append(entry.path)
                elif entry.name.lower().endswith(_SUFFIXES):
                    files.append(entry.path)
    return files


def from_marked(
    items: Sequence[ImageSource],
    labels: Sequence[Any],
    is_valid: Sequence[bool] | None,
    valid_fraction: float,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
    task: Task = "single_label",
) -> tuple[Examples, Examples]:
    """Training and validation examples, as marked or else split at random."""
    if is_valid is None:
        whole = from_pairs(items, labels, classes, task, of_training=False)
        return whole.split(valid_fraction, seed)
    if not len(is_valid) == len(items) == len(labels):
        raise ValueError(
            f"got {len(items)} images, {len(labels)} labels and {len(is_valid)} marks of validation"
        )
    marks = [bool(mark) for mark in is_valid]
    if all(marks) or not any(marks):
        raise ValueError(
            f"all {len(marks)} images are marked for {'validation' if all(marks) else 'training'}"
        )
    labels = words(plain(labels)) if task == "single_label" else plain(labels)  # numbers its errors
    sides: list[tuple[list[ImageSource], list[Any]]] = [([], []), ([], [])]
    for item, label, mark in zip(items, labels, marks, strict=True):
        sides[mark][0].append(item)
        sides[mark][1].append(label)
    train = from_pairs(*sides[False], classes, task, of_training=False)
    valid = from_pairs(*sides[True], train.classes, task)
    numbers, held_out = torch.arange(len(marks)), torch.tensor(marks)
    return replace(train, numbers=numbers[~held_out]), replace(valid, numbers=numbers[held_out])
