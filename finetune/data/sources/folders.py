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
    Raises FileNotFoundError or ValueError for a folder that makes no classifier.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"image folder {str(folder)!r} {problem}; it needs one folder a class"
        )
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
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
    labels = torch.tensor([number_of[name] for name in names])
    return Examples(items, labels.repeat_interleave(torch.tensor(counts)), classes)


def _refuse_splits(folder: Path, names: Sequence[str]) -> None:
    """Raises ValueError where all folders are called like the parts of a split."""
    if not {name.lower() for name in names} <= _SPLIT_NAMES:
        return
    train = next((name for name in names if name.lower().startswith("train")), names[0])
    other_names = [name for name in names if name != train]
    valid = next(
        (name for name in other_names if name.lower().startswith("val")),
        other_names[0] if other_names else "valid",
    )
    raise ValueError(
        f"{str(folder)!r} holds {' and '.join(names)}, which looks like a given split, not "
        f"like classes; pass train={train!r}, valid={valid!r}"
    )


def image_files(folder: str | Path) -> list[str]:
    """The images in and below a folder, sorted; hidden files and folders are left out.

    Raises FileNotFoundError for a folder that is not there, and ValueError for one without images.
    """
    if not Path(folder).is_dir():
        problem = "is a file" if Path(folder).exists() else "does not exist"
        raise FileNotFoundError(f"image folder {str(folder)!r} {problem}")
    files = sorted(_files_below(str(folder)))
    if not files:
        raise ValueError(f"there is no image in {str(folder)!r} or below")
    return files


def _files_below(folder: str) -> list[str]:
    """The images in and below `folder`, in no order; made for a million, so strings throughout."""
    files, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():  # costs no further look at the disk, but for links
                    folders.append(entry.path)
                elif entry.name.lower().endswith(_SUFFIXES):
                    files.append(entry.path)
    return files
