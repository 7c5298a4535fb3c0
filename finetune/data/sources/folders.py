"""Images of a folder: one folder for each class, or any images in and below it."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.data.examples import Examples
from finetune.data.images.opening import ImageSource
from finetune.data.sources.listing import SYSTEM_FOLDERS, Listing, plugin_hint
from finetune.data.sources.split_folders import refuse_parts_of_a_split
from finetune.tasks.labels import number_classes


def from_folder(folder: Path, classes: Sequence[str] | None = None) -> Examples:
    """Examples from `folder/<class>/**/<image>`, in sorted order; hidden files are left out.

    classes: the names in the order of the model's outputs; None sorts the names of the folders.
    A warning says which other files are left out. Raises FileNotFoundError for a folder that does
    not exist, and ValueError for one without class folders, for a class folder without images, and
    for a folder of splits instead of classes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{_not_a_folder(folder)}; it needs one folder a class")
    folders_of = class_folders(folder)
    if not folders_of:
        raise ValueError(f"{str(folder)!r} has no class folders; put images in {folder}/<class>/")
    names = sorted(folders_of)
    if classes is None:
        refuse_parts_of_a_split(folder, names)
    listing = _beside_class_folders(folder)
    items: list[ImageSource] = []
    counts: list[int] = []
    for name in names:
        files: list[str] = []
        for class_folder in folders_of[name]:
            files += listing.add(class_folder)
        if not files:
            raise ValueError(
                f"class folder {folders_of[name][0]!r} holds no image{_other_files(listing)}; "
                "remove or fill it"
            )
        items.extend(files)
        counts.append(len(files))
    listing.notice(folder)
    classes, number_of = number_classes(names, classes)
    class_indices = torch.tensor([number_of[name] for name in names])
    labels = class_indices.repeat_interleave(torch.tensor(counts))
    return Examples(items, labels, classes)


def _not_a_folder(folder: Path) -> str:
    """The beginning of an error: why this is not a folder of images."""
    problem = "is a file" if folder.exists() else "does not exist"
    return f"image folder {str(folder)!r} {problem}"


def class_folders(folder: Path) -> dict[str, list[str]]:
    """The paths of the folders in `folder`, by the class that each stands for.

    Hidden folders and those that systems make are left out. Names that differ only in how their
    accents are stored (a Mac does it in another way than other systems) are one class.
    """
    folders_of: dict[str, list[str]] = defaultdict(list)
    for entry in os.scandir(folder):
        is_left_out = entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS
        if entry.is_dir() and not is_left_out:
            # bytes that are no UTF-8 stay readable, and every file can hold the name
            name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            folders_of[unicodedata.normalize("NFC", name)].append(entry.path)
    for paths in folders_of.values():
        paths.sort()
    return folders_of


def _beside_class_folders(folder: Path) -> Listing:
    """A listing without images, but with what is left out beside the class folders."""
    listing = Listing()
    listing.add_beside_folders(str(folder))
    return listing


def _other_files(listing: Listing) -> str:
    """What was found in place of images, in brackets; empty where there was nothing."""
    if not listing.left_out:
        return ""
    counts = ", ".join(f"{count} {ending}" for ending, count in listing.left_out.items())
    return f" (but {counts}{plugin_hint(listing.left_out)})"


def image_files(folder: str | Path) -> list[str]:
    """The images in and below a folder, sorted; hidden files and folders are left out.

    A warning says which other files are left out. Raises FileNotFoundError for a folder that does
    not exist, and ValueError for one without images.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(_not_a_folder(Path(folder)))
    listing = Listing()
    files = listing.add(str(folder))
    if not files:
        raise ValueError(f"there is no image in {str(folder)!r} or below{_other_files(listing)}")
    listing.notice(folder)
    return files
