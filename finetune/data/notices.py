"""What is said of data as soon as they are made: classes that can't be learned, and leaks."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from finetune.data.examples import Examples
from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.opening import ImageSource, file_name
from finetune.data.images.packed import PackedImage
from finetune.wording import counted, warn

FILES_COMPARED = 10_000
"""Data of more files are compared by `summary()` only: on a network disk, to ask for
more sizes takes seconds."""

_BYTES_COMPARED = 500e6
"""So much is read at most. Of large files the first part tells whether they may be the same."""

_FIRST_BYTES = 1 << 16
_CLASSES_NAMED = 5
_File: TypeAlias = str | PackedImage


def check_classes(train: Examples) -> None:
    """Says which classes have no image for training.

    Raises ValueError where all images are of one class: the model would learn to say its name, and
    be right in all of validation.
    """
    counts = train.counts()
    if not counts or not any(counts):
        return
    missing = [name for name, count in zip(train.classes, counts, strict=True) if not count]
    if train.task.exclusive and len(missing) == len(train.classes) - 1:
        (only,) = set(train.classes) - set(missing)
        raise ValueError(
            f"all {counted(len(train), 'training image')} are of the class {only!r}, of "
            f"{len(train.classes)} classes; was a sorted data set cut? shuffle it first, or take "
            "images of each class"
        )
    if missing:
        names = ", ".join(map(repr, missing[:_CLASSES_NAMED]))
        if len(missing) > _CLASSES_NAMED:
            names += f" and {len(missing) - _CLASSES_NAMED} more"
        warn(
            f"{len(missing)} of {len(train.classes)} classes have no training image: {names}; the "
            "model will not predict them"
        )


def check_leaks(train: Examples, valid: Examples) -> None:
    """Says that files are in training and in validation, if comparing them takes little time.

    Only files of the same size are read. `DataSummary.leaks` compares all, images in memory, too.
    """
    leaks = shared_files(train.items, valid.items)
    if leaks:
        first, second = leaks[0]
        warn(
            f"{counted(len(leaks), 'validation image')} can be found in training, too, byte for "
            f"byte, so that validation flatters the model; first: {first} = {second}; "
            "data.summary().leaks lists them"
        )


def shared_files(
    train_items: Sequence[ImageSource], items: Sequence[ImageSource]
) -> list[tuple[str, str]]:
    """Pairs of a training file and one of the others with the same bytes, at any path.

    There are none of more than `FILES_COMPARED` files, and of very large ones only the first.
    """
    # one more than are compared: to go through a million for nothing would take seconds
    most = FILES_COMPARED + 1
    train_files, files = list(islice(_files(train_items), most)), list(islice(_files(items), most))
    if len(train_files) + len(files) > FILES_COMPARED:
        return []
    train_by_size = _by_size(train_files)
    shared: list[tuple[str, str]] = []
    budget = _BYTES_COMPARED
    for size, files_of_size in _by_size(files).items():
        if size == 0 or size not in train_by_size:
            continue
        candidates = train_by_size[size]
        budget -= size * (len(files_of_size) + len(candidates))
        if budget < 0:  # those so far are said all the same
            break
        shared.extend(_same_content(candidates, files_of_size))
    return shared


def _files(items: Sequence[ImageSource]) -> Iterator[_File]:
    """The files among the images, but for those that take too long to be compared."""
    if isinstance(items, DatasetImages) or not isinstance(items, list | tuple):
        return
    for item in items:
        if isinstance(item, PackedImage):
            if item.is_read_quickly:
                yield item
        elif (name := file_name(item)) is not None:
            yield name


def _by_size(files: Sequence[_File]) -> dict[int, list[_File]]:
    """The files by their size in bytes; those that are not there will be named when read."""
    files_of: dict[int, list[_File]] = defaultdict(list)
    for file in files:
        try:
            size = file.content_size() if isinstance(file, PackedImage) else os.stat(file).st_size
            files_of[size].append(file)
        except OSError:
            continue
    return files_of


def _same_content(
    train_files: Sequence[_File], valid_files: Sequence[_File]
) -> Iterator[tuple[str, str]]:
    """Pairs of a training and a validation file with the same bytes."""
    beginnings = {_digest(file, _FIRST_BYTES) for file in train_files}
    alike = [file for file in valid_files if _digest(file, _FIRST_BYTES) in beginnings]
    if not alike:
        return
    train_file_of = {_digest(file): file for file in train_files}
    for file in alike:
        digest = _digest(file)
        if digest is not None and digest in train_file_of:
            yield str(train_file_of[digest]), str(file)


def _digest(file: _File, count: int | None = None) -> bytes | None:
    """A digest of the file's first bytes, or of all; None for a file that can't be read."""
    try:
        if isinstance(file, PackedImage):
            content = file.content()[:count]
        else:
            with open(file, "rb") as stream:
                content = stream.read(-1 if count is None else count)
    except (OSError, ValueError):
        return None
    return hashlib.blake2b(content, digest_size=16).digest()
