"""Marks of validation: what a cell, or an entry of `is_valid`, says of its image."""

import numbers
from collections.abc import Sequence
from typing import Any

from finetune.tasks.labels import is_empty, python_values

_VALID_WORDS = frozenset({"1", "1.0", "true", "yes", "y", "t", "valid", "validation", "val"})
_TRAIN_WORDS = frozenset({"0", "0.0", "false", "no", "n", "f", "train", "training"})


def is_marked(mark: Any, place: str) -> bool:
    """Whether a mark says that its image is for validation. One that is missing says no.

    mark: True, False, 1, 0, or a word for it, in any case; None, NaN or an empty text is missing.
    place: where the mark is, with which the error begins. Raises ValueError for any other mark.

    >>> is_marked("yes", "line 2"), is_marked("0", "line 3"), is_marked(float("nan"), "line 4")
    (True, False, False)
    """
    if is_empty(mark):
        return False
    if isinstance(mark, numbers.Real) and mark in (0, 1):  # True, 1.0 and numpy's are ones, too
        return bool(mark)
    word = str(mark).strip().lower()
    if word in _VALID_WORDS:
        return True
    if word in _TRAIN_WORDS:
        return False
    raise ValueError(
        f"{place} says {mark!r} where it should say whether the image is for validation: one of "
        f"{', '.join(sorted(_VALID_WORDS))}, or {', '.join(sorted(_TRAIN_WORDS))}, or nothing; "
        "leave out images that are for neither, such as those of a test set"
    )


def are_marked(marks: Sequence[Any]) -> list[bool]:
    """Which of the images are for validation. marks: a list, an array, a tensor or a column."""
    is_valid = []
    for number, mark in enumerate(python_values(marks)):
        is_valid.append(is_marked(mark, f"is_valid of image {number}"))
    return is_valid
