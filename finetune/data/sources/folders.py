"""Images of a folder: one folder for each class, or any images in and below it."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.data.examples import Examples
from finetune.data.images.decode import EXTENSIONS, ImageSource
from finetune.tasks.labels import number_classes

_SUFFIXES = tuple(sorted(EXTENSIONS))
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test"})


def from_folder(folder: Path, classes: Sequence[str] | None = None) -> Examples:
    """Examples from `folder/<class>/**/<image>`, in sorted order; hidden files are left out.

    classes: the names in the order of the model's outputs; None sorts the names of the folders.
    Raises FileNotFoundError for a folder that does not exist, and ValueError for one without class
    folders, for a class folder without images, and for a folder of splits instead of classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{_not_a_folder(folder)}; it needs one folder a class")
    names = _class_folders(folder)
    if not names:
        raise ValueError(f"{str(folder)!r} has no class folders; put images in {folder}/<class>/")
    if classes is None:
        _refuse_splits(folder, names)
    items: list[ImageSource] = []
    counts: list[int] = []
    for name in names:
        files = sorted(_files_below(str(folder / name)))
        if not files:
            raise ValueError(
                f"class folder {str(folder / name)!r} holds no image; remove or fill it"
            )
        items.extend(files)
        counts.append(len(files))
    classes, number_of = number_classes(names, classes)
    class_indices = torch.tensor([number_of[name] for name in names])
    labels = class_indices.repeat_interleave(torch.tensor(counts))
    return Examples(items, labels, classes)


def _not_a_folder(folder: Path) -> str:
    """The beginning of an error: why this is not a folder of images."""
    problem = "is a file" if folder.exists() else "does not exist"
    return f"image folder {str(folder)!r} {problem}"


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted; hidden ones are left out."""
    names = []
    for entry in os.scandir(folder):
        if entry.is_dir() and not entry.name.startswith("."):
            names.append(entry.name)
    return sorted(names)


def _refuse_splits(folder: Path, names: Sequence[str]) -> None:
    """Raises ValueError where every folder has a name that a part of a split usually has.

    The classes would be "train" and "valid", and the model would learn to tell them apart.
    """
    if not all(name.lower() in _SPLIT_NAMES for name in names):
        return
    train = _first_starting_with("train", names) or names[0]
    other_names = [name for name in names if name != train] or ["valid"]
    valid = _first_starting_with("val", other_names) or other_names[0]
    raise ValueError(
        f"{str(folder)!r} holds {' and '.join(names)}, which looks like a given split, not "
        f"like classes; pass train={train!r}, valid={valid!r}"
    )


def _first_starting_with(prefix: str, names: Sequence[str]) -> str | None:
    for name in names:
        if name.lower().startswith(prefix):
            return name
    return None


def image_files(folder: str | Path) -> list[str]:
    """The images in and below a folder, sorted; hidden files and folders are left out.

    Raises FileNotFoundError for a folder that does not exist, and ValueError for one without
    images.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(_not_a_folder(Path(folder)))
    files = sorted(_files_below(str(folder)))
    if not files:
        raise ValueError(f"there is no image in {str(folder)!r} or below")
    return files


def _files_below(folder: str) -> list[str]:
    """The images in and below `folder`, in no order.

    Paths are strings here, because to make a million `Path` objects is slow.
    """
    files: list[str] = []
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():  # asks the disk only about links; scandir knows the others
                    folders.append(entry.path)
                elif entry.name.lower().endswith(_SUFFIXES):
                    files.append(entry.path)
    return files
