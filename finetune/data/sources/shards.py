"""Examples from shards: tar files in WebDataset's layout."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import arguments
from finetune.data.examples import Examples
from finetune.data.images.opening import ImageSource
from finetune.data.images.shards import Shard, ShardImage
from finetune.data.sources.datasets import from_column
from finetune.data.sources.lists import from_pairs
from finetune.data.sources.shard_index import LabelRule, found_rule, read_index
from finetune.files.storage import State, is_remote, storage_of
from finetune.tasks import DEFAULT_TASK, Task

CLASSES_FILE = "classes.txt"
"""The names of the classes, one a line in the order of their indices, in the folder of shards."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """How the examples of shards are read.

    rule: where labels are. classes: names by index, or in the order of the model's outputs; None:
    those in the file of classes beside the shards, or else as `from_column` names them. task: what
    the labels are. cache_folder: see `read_index`.
    """

    rule: LabelRule
    classes: Sequence[str] | None = None
    task: Task = DEFAULT_TASK
    cache_folder: str | Path | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            arguments.sequence("classes", self.classes, "class names")

    def found_in(self, shards: Sequence[str]) -> "ShardLayout":
        """The same layout, with the rule and the classes of the first shard where none are given.

        Raises FileNotFoundError where that is not there, and ValueError where it has no image.
        """
        states_of(shards[:1])
        classes = self.classes
        if classes is None:
            classes = stored_classes(os.path.dirname(shards[0]))
        return replace(self, rule=found_rule(self.rule, shards[0]), classes=classes)


def from_shards(
    shards: Sequence[str], layout: ShardLayout, *, of_training: bool = False
) -> Examples:
    """Examples from the images of shards, in the order of their names.

    So the order does not depend on how the images are divided into shards: it is that of
    `from_folder` for the folder that was packed. shards: absolute paths. of_training: see
    `from_pairs`. Raises FileNotFoundError for a shard that is not there, and ValueError for one
    that is damaged or empty, and for labels that the task can't use.
    """
    states = states_of(shards)
    examples: list[tuple[ShardImage, Any]] = []
    for path, state in zip(shards, states, strict=True):
        index = read_index(path, state, layout.rule, layout.cache_folder)
        shard = Shard(path, state)
        for name, offset, size, label in index.rows():
            examples.append((ShardImage(shard, name, offset, size), label))
    if not examples:
        raise ValueError(f"there is no image in {shards[0]!r}" + _and_more(shards))
    examples.sort(key=_order)
    images: list[ImageSource] = [image for image, _ in examples]
    labels = [label for _, label in examples]
    classes, task = layout.classes, layout.task
    if task.exclusive:
        column = f".{layout.rule.file}"
        return from_column(images, column, labels, classes, task, of_training=of_training)
    return from_pairs(images, labels, classes, task, of_training=of_training)


def _order(example: tuple[ShardImage, Any]) -> str:
    """What examples are sorted by: the name of the first folder, and then the rest of the name."""
    image, _ = example
    # the folder "cat" comes before "cat-2", though a slash does not come before a dash
    return image.name.replace("/", "\0", 1)


def states_of(paths: Sequence[str], kind: str = "shard") -> list[State]:
    """The states of files. Raises FileNotFoundError, with the kind of file, for those missing."""
    states = []
    missing = []
    for path in paths:
        try:
            states.append(storage_of(path).state(path))
        except FileNotFoundError:
            missing.append(path)
    if missing:
        raise FileNotFoundError(f"there is no {kind} {missing[0]!r}" + _and_more(missing))
    return states


def _and_more(paths: Sequence[str]) -> str:
    return "" if len(paths) == 1 else f", nor {len(paths) - 1} more"


def shard_paths(name: str, patterns: Any) -> list[str]:
    """The absolute paths of shards, or their addresses.

    name: of the argument, for errors. patterns: a path or an address, in which `{000..127}` stands
    for each of these numbers with as many digits, and `*` for any part of a name; or a list of
    such. Raises TypeError or ValueError for anything else, and FileNotFoundError for a pattern with
    `*` that no file has.

    >>> [Path(path).name for path in shard_paths("train", "train-{08..10}.tar")]
    ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    if isinstance(patterns, str | os.PathLike):
        patterns = [patterns]
    patterns = arguments.sequence(
        name, patterns, "paths of shards, or one such as 'a-{00..12}.tar'"
    )
    if not len(patterns):
        raise ValueError(f"{name} names no shard")
    paths: list[str] = []
    for pattern in patterns:
        for path in expanded(pattern if is_remote(pattern) else str(arguments.path(name, pattern))):
            place = path if is_remote(path) else os.path.abspath(path)
            paths.extend(_files_called(place) if "*" in path else [place])
    return paths


def _files_called(pattern: str) -> list[str]:
    """The files whose names fit a pattern with `*`, in the order of their names."""
    files = storage_of(pattern).files(pattern)
    if not files:
        raise FileNotFoundError(f"there is no file {pattern!r}")
    return sorted(files)


def expanded(pattern: str) -> list[str]:
    """A pattern with each of the numbers that its `{000..127}` stands for; there may be several.

    Raises ValueError for a range that runs backwards.
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(first) > int(last):
        raise ValueError(f"{found[0]} in {pattern!r} has no number: write the smaller one first")
    paths = []
    for rest in expanded(pattern[found.end() :]):
        for number in range(int(first), int(last) + 1):
            paths.append(f"{pattern[: found.start()]}{number:0{len(first)}d}{rest}")
    return paths


def stored_classes(folder: str | Path) -> list[str] | None:
    """The names in the file of classes in a folder; None where there is no such file."""
    file = f"{folder}/{CLASSES_FILE}"
    try:
        with storage_of(file).open(file) as stream:
            text = stream.read().decode("utf-8")
    except (FileNotFoundError, PermissionError):  # S3 says the second where it may not list
        return None
    return text.splitlines()
