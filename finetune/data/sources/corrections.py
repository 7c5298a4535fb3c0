"""Examples with corrections applied: other labels, and images that are left out."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.corrections import Correction, read
from finetune.data.examples import Examples
from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.opening import file_name
from finetune.data.images.packed import PackedImage
from finetune.files.names import path_below, shared_folder, spelled
from finetune.wording import did_you_mean


class Corrected(NamedTuple):
    """Examples, and where those that are left were before: int64 [M]."""

    examples: Examples
    positions: Tensor


class _Place(NamedTuple):
    """Where an image is: which part of the data, 0 or 1, and its position there."""

    part: int
    position: int


def corrected(
    train: Examples, valid: Examples, file: Path, root: Path | None
) -> tuple[Corrected, Corrected]:
    """Training and validation examples as a file of corrections says.

    root: the folder that the paths in the file are below; None is the one that all images are in.
    Raises ValueError, with the line, for an image or a class that is not there, for a label that is
    not the one in the data, and where no example would be left.
    """
    parts = (train, valid)
    folder = str(root) if root is not None else _folder_of_all(parts)
    places_of = _places(parts, folder)
    labels = [part.labels.clone() for part in parts]
    is_kept = [torch.ones(len(part), dtype=torch.bool) for part in parts]
    for row in read(file):
        where = f"{str(file)!r}, line {row.line}"
        places = _find(row.image, places_of)
        if not places:
            raise ValueError(
                f"{where}: there is no image {row.image!r} in the data; images are named by their "
                f"paths below {folder!r}, or by their numbers where they are no files"
            )
        for place in places:
            part = parts[place.part]
            _check_label(row, part, place.position, where)
            if row.action == "remove":
                is_kept[place.part][place.position] = False
            elif row.action == "relabel":
                number = _class_number(row.new_label, part, where)
                labels[place.part][place.position] = number
    for name, mask in zip(("training", "validation"), is_kept, strict=True):
        if len(mask) and not mask.any():
            raise ValueError(f"{str(file)!r} leaves no {name} image; keep some")
    results = []
    for part, part_labels, mask in zip(parts, labels, is_kept, strict=True):
        positions = torch.nonzero(mask).flatten()
        results.append(Corrected(replace(part, labels=part_labels).select(positions), positions))
    return results[0], results[1]


def _places(parts: Sequence[Examples], folder: str) -> dict[str, list[_Place]]:
    """Where the images of each name are; a file has two, one below the folder, one absolute."""
    places_of: dict[str, list[_Place]] = defaultdict(list)
    for number, part in enumerate(parts):
        for position in range(len(part)):
            for name in _names(part, position, folder):
                places_of[name].append(_Place(number, position))
    return places_of


def _folder_of_all(parts: Sequence[Examples]) -> str:
    """The folder that the files of all parts are in; empty where there are no files."""
    paths: list[str] = []
    for part in parts:
        if isinstance(part.items, list | tuple):
            names = map(file_name, part.items)
            paths.extend(spelled(name) for name in names if name is not None)
    return shared_folder(paths)


def _names(part: Examples, position: int, folder: str) -> set[str]:
    """The names of one example."""
    if isinstance(part.items, DatasetImages):
        return {str(part.items.identities[position])}
    item = part.items[position] if isinstance(part.items, list | tuple) else None
    name = file_name(item)
    if name is not None:
        names = {path_below(name, folder), spelled(os.path.abspath(name))}
        if isinstance(item, PackedImage):
            names.add(item.name)  # as in the folder that was packed, and in other shards of it
        return names
    return {str(position if part.numbers is None else int(part.numbers[position]))}


def _find(image: str, places_of: Mapping[str, list[_Place]]) -> Sequence[_Place]:
    """Where the image of this name is; there are several places if a table has its file twice."""
    name = spelled(image)
    if name in places_of:
        return places_of[name]
    return places_of.get(spelled(os.path.abspath(image)), ())


def _check_label(row: Correction, part: Examples, position: int, where: str) -> None:
    """Raises ValueError where the image has another label than it had when it was corrected."""
    if not row.label or not part.task.exclusive:
        return
    label = part.classes[int(part.labels[position])]
    if label not in (row.label, row.new_label):
        raise ValueError(
            f"{where}: image {row.image!r} is labelled {label!r} in the data and not "
            f"{row.label!r}; the correction is of another state of the data: look at it again"
        )


def _class_number(name: str, part: Examples, where: str) -> int:
    if not part.task.exclusive:
        raise ValueError(
            f"{where}: relabel is for one class an image, and this is task={part.task.name!r}; "
            "correct the table of labels itself"
        )
    if name not in part.classes:
        hint = did_you_mean(name, part.classes)
        raise ValueError(f"{where}: there is no class {name!r} in the data; {hint}")
    return part.classes.index(name)
