"""Where examples come from: a folder, a CSV file, lists, a data set -> Examples(items, labels)."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.data.decode import EXTENSIONS, ImageError, ImageSource
from finetune.randomness import generator

_SUFFIXES = tuple(sorted(EXTENSIONS))
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})


class ImageDataset(Protocol):
    """A torchvision-style data set of (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures and their labels. labels: [N] int64, indices into `classes`."""

    items: Sequence[ImageSource]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Tensor) -> "Examples":
        items, numbers = self.items, indices.tolist()
        if isinstance(items, DatasetImages):  # reading a picture can wait
            return Examples(items.select(numbers), self.labels[indices], self.classes)
        chosen = [items[i] for i in numbers]
        return Examples(chosen, self.labels[indices], self.classes)

    def split(self, valid_fraction: float, seed: int) -> tuple["Examples", "Examples"]:
        """A random split that is the same for the same seed, with `valid_fraction` of each class.

        Every class keeps at least one training example, and has one for validation if it has two.
        """
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction needs 0 < valid_fraction < 1, got {valid_fraction}")
        held_out = []
        # sorted once: a search per class would read all labels as often as there are classes
        by_class = torch.from_numpy(np.argsort(self.labels.numpy(), kind="stable"))
        sizes = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        for label, members in enumerate(torch.split(by_class, sizes)):
            order = torch.randperm(len(members), generator=generator(seed, "split", label))
            count = min(max(round(valid_fraction * len(members)), 1), len(members) - 1)
            held_out.append(members[order[: max(count, 0)]])
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[torch.cat(held_out)] = True
        return self.select(torch.nonzero(~chosen).flatten()), self.select(
            torch.nonzero(chosen).flatten()
        )


def from_pairs(
    items: Sequence[ImageSource], labels: Sequence[str], classes: Sequence[str] | None = None
) -> Examples:
    """Examples from pictures and class names; classes in sorted order unless given.

    Raises ValueError for no example, one class, classes that differ only in case, or a label
    that `classes` lacks.
    """
    if len(items) != len(labels):
        raise ValueError(f"got {len(items)} images but {len(labels)} labels")
    if not len(items):
        raise ValueError("there are no images")
    labels = [str(label) for label in labels]
    names, index = _numbered(set(labels), classes)
    return Examples(items, torch.tensor([index[label] for label in labels]), names)


def _numbered(
    found: Collection[str], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, which are those found in sorted order unless given, and each one's index."""
    names = check_classes(sorted(found) if classes is None else classes)
    index = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(found) - index.keys())
    if unknown:
        raise ValueError(
            f"validation has classes that training lacks: {', '.join(map(repr, unknown))}; "
            f"training has {', '.join(map(repr, names))}"
        )
    return names, index


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if len(classes) < 2:
        raise ValueError(f"a classifier needs at least two classes, found only {list(classes)}")
    folded: dict[str, str] = {}
    for name in classes:
        twin = folded.setdefault(name.casefold(), name)
        if twin != name:
            raise ValueError(f"classes {twin!r} and {name!r} differ only in case; rename one")
    return tuple(str(name) for name in classes)


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
    classes, index = _numbered(names, classes)
    labels = torch.tensor([index[name] for name in names])
    return Examples(items, labels.repeat_interleave(torch.tensor(counts)), classes)


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
    labels: Sequence[str],
    is_valid: Sequence[bool] | None,
    valid_fraction: float,
    seed: int,
) -> tuple[Examples, Examples]:
    """Training and validation examples, as marked or else split at random."""
    if is_valid is None:
        return from_pairs(items, labels).split(valid_fraction, seed)
    if not len(is_valid) == len(items) == len(labels):
        raise ValueError(
            f"got {len(items)} images, {len(labels)} labels and {len(is_valid)} marks of validation"
        )
    marks = [bool(mark) for mark in is_valid]
    if all(marks) or not any(marks):
        raise ValueError(
            f"all {len(marks)} images are marked for {'validation' if all(marks) else 'training'}"
        )
    sides: list[tuple[list[ImageSource], list[str]]] = [([], []), ([], [])]
    for item, label, mark in zip(items, labels, marks, strict=True):
        sides[mark][0].append(item)
        sides[mark][1].append(label)
    train = from_pairs(*sides[False])
    return train, from_pairs(*sides[True], train.classes)


@dataclass(frozen=True, slots=True)
class DatasetImages(Sequence[ImageSource]):
    """The pictures of a torchvision-style data set, read when asked for."""

    dataset: ImageDataset
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[self.numbers[index]][0]
        except Exception as error:
            name = f"{self.numbers[index]} of {type(self.dataset).__name__}"
            raise ImageError(name, f"{error} ({type(error).__name__})") from error

    def select(self, positions: Sequence[int]) -> "DatasetImages":
        return DatasetImages(self.dataset, [self.numbers[i] for i in positions])


def from_dataset(dataset: ImageDataset, classes: Sequence[str] | None) -> Examples:
    """Examples from a data set of (image, label), labels being class indices.

    Class names come from `classes`, or the data set's own, or else are the numbers. Labels
    come from `dataset.targets` where it has them; otherwise every item is read once.
    """
    targets = getattr(dataset, "targets", None)
    if targets is None or getattr(dataset, "target_transform", None) is not None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    labels = torch.as_tensor(targets).long().flatten()
    if not len(labels):
        raise ValueError("the data set is empty")
    if len(labels) != len(dataset):
        raise ValueError(f"the data set has {len(dataset)} items but {len(labels)} targets")
    names = classes or getattr(dataset, "classes", None)
    names = names or [str(i) for i in range(int(labels.max()) + 1)]
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, "
            f"but there are {len(names)} classes"
        )
    images: Sequence[ImageSource] = DatasetImages(dataset, range(len(dataset)))
    return Examples(images, labels, check_classes([str(name) for name in names]))


def in_classes(examples: Examples, classes: tuple[str, ...]) -> Examples:
    """The same examples with labels that count in `classes`. Raises ValueError for one it lacks."""
    if examples.classes == classes:
        return examples
    names = [examples.classes[label] for label in examples.labels.tolist()]
    return from_pairs(examples.items, names, classes)


def class_counts(examples: Examples) -> dict[str, int]:
    """Class -> how many examples have it."""
    counts = torch.bincount(examples.labels, minlength=len(examples.classes)).tolist()
    return dict(zip(examples.classes, counts, strict=True))


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
