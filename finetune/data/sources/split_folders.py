"""Folders that are parts of a split: told from classes by the words in their names."""

import re
from collections.abc import Sequence
from pathlib import Path

_TRAIN_WORDS = frozenset({"train", "training", "trainset", "trn"})
_VALID_WORDS = frozenset({"val", "valid", "validation", "valset", "dev", "devset", "holdout"})
_TEST_WORDS = frozenset({"test", "testing", "testset", "tst", "eval", "evaluation"})


def refuse_parts_of_a_split(folder: Path, names: Sequence[str]) -> None:
    """Raises ValueError where the folders are the parts of a split and not classes.

    The classes would be "train" and "valid", and the model would learn to tell them apart. Folders
    are parts where one has a word for training in its name and another one a word for validation or
    a test, such as "seg_train" and "seg_test"; or where all names are nothing but such words.
    """
    train, valid = _train_and_valid(names)
    all_words = _TRAIN_WORDS | _VALID_WORDS | _TEST_WORDS
    are_nothing_else = all(name.lower() in all_words for name in names)
    are_parts = train is not None and valid is not None
    if not are_parts and not are_nothing_else:
        return
    train = train or names[0]
    if valid is None:  # there is one folder, or both have a word of the same kind
        valid = next((name for name in names if name != train), "valid")
    raise ValueError(
        f"{str(folder)!r} holds {' and '.join(names)}, which looks like a given split, not "
        f"like classes; pass train={train!r}, valid={valid!r}"
    )


def _train_and_valid(names: Sequence[str]) -> tuple[str | None, str | None]:
    """The folder to train on and the one to validate on; a test set if need be."""
    train = _first_with_word(names, _TRAIN_WORDS)
    other_names = [name for name in names if name != train]
    valid = _first_with_word(other_names, _VALID_WORDS)
    if valid is None:
        valid = _first_with_word(other_names, _TEST_WORDS)
    return train, valid


def _first_with_word(names: Sequence[str], words: frozenset[str]) -> str | None:
    """The first of the names that has one of the words."""
    for name in names:
        if not words.isdisjoint(_words_in(name)):
            return name
    return None


def _words_in(name: str) -> list[str]:
    """The words of a name in lower case; a capital begins a new one.

    >>> _words_in("TrainSet_2017"), _words_in("seg-train")
    (['train', 'set'], ['seg', 'train'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
