"""Names of classes, and labels as people write them: checked, sorted and numbered."""

import ast
import json
import math
import numbers
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

_LARGEST_EXACT = 2**53
"""Beyond it a float need not be the whole number that it was made of."""


def class_name(label: Any, where: str) -> str:
    """The class name of a label; that of a number is its text.

    A whole number is written as one also where it is a float: pandas makes floats of a column of
    whole numbers in which one is missing.

    label: a string, a number, or an array or tensor of one number. where: the label's place, with
    which errors begin. Raises ValueError for a missing label, and for several labels.
    """
    value = label
    if getattr(label, "ndim", None) == 0:
        value = label.item()
    if is_missing(value):
        raise ValueError(f"{where} has no label, but {value!r}; leave it out or label it")
    if isinstance(value, Iterable) and not isinstance(value, str):
        raise ValueError(
            f"{where} needs one class name, got {value!r}; for several labels an image "
            "pass task='multi_label', for numbers task='regression'"
        )
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        value = int(value)
    return unicodedata.normalize("NFC", str(value))


def class_names(labels: Sequence[Any]) -> list[str]:
    """The class name of each image's label.

    Raises ValueError, with the image's number, for a missing label, and for several labels.
    """
    return [class_name(label, f"image {number}") for number, label in enumerate(labels)]


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas' NA or NaT."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    # by name, since pandas may not be there
    return type(value).__name__ in ("NAType", "NaTType")


def is_empty(cell: Any) -> bool:
    """Whether a cell of a table is missing or holds only white space."""
    is_blank = isinstance(cell, str) and not cell.strip()
    return is_missing(cell) or is_blank


def list_in_text(text: str, where: str) -> list[str] | None:
    """The names of a list that was saved as text, such as "['a', 'b']"; None for another text.

    where: the text's place, with which the error begins. Raises ValueError for what looks like such
    a list, but is none that Python or JSON writes, as numpy's "['a' 'b']".

    >>> list_in_text("['a', 'b']", "line 2"), list_in_text('["a"]', "line 3"), list_in_text("a", "")
    (['a', 'b'], ['a'], None)
    """
    stripped = text.strip()
    is_list_of_texts = stripped.startswith(("['", '["')) and stripped.endswith("]")
    if not is_list_of_texts and stripped != "[]":
        return None
    try:
        names = ast.literal_eval(stripped)
    except (ValueError, SyntaxError):
        names = None
    # written again it must be the same text: Python joins 'a' 'b' to 'ab'
    spellings = (repr(names), json.dumps(names), json.dumps(names, ensure_ascii=False))
    if stripped not in spellings:
        raise ValueError(
            f"{where} has a list as text, {text!r:.80}, which can't be read for sure; write its "
            "names with one delimiter between them, or pass a table whose cells are lists"
        )
    return [str(name) for name in names]


def python_number(value: Any) -> float | None:
    """A number, or a text that is one, as a float; None for anything else. True is 1."""
    if not isinstance(value, str | numbers.Real):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def python_values(labels: Sequence[Any]) -> Sequence[Any]:
    """The values of an array, a tensor or a column as Python values; a list stays as it is."""
    if hasattr(labels, "tolist"):
        values: Sequence[Any] = labels.tolist()
        return values
    return labels


def number_classes(
    labels: Collection[str],
    classes: Sequence[str] | None,
    *,
    at_least: int = 2,
    of_training: bool = True,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes in order, and the number of each by its name.

    labels: the names that occur. classes: all names in order; None sorts the names that occur, see
    `sorted_names`. of_training: whether `classes` are those of the training data, which only the
    error's words depend on.
    Raises ValueError for fewer than `at_least` classes, and for a label that `classes` lacks.
    """
    if classes is None:
        classes = sorted_names(labels)
    names = checked_classes(classes, at_least)
    number_of = {name: number for number, name in enumerate(names)}
    unknown = sorted(set(labels) - number_of.keys())
    if unknown:
        raise ValueError(_unknown_classes_message(unknown, names, of_training=of_training))
    return names, number_of


def _unknown_classes_message(
    unknown: Sequence[str], classes: Sequence[str], *, of_training: bool
) -> str:
    unknown_list = ", ".join(map(repr, unknown))
    known_list = ", ".join(map(repr, classes))
    if of_training:
        return (
            f"validation has classes that training lacks: {unknown_list}; training has {known_list}"
        )
    return f"there are labels that classes= lacks: {unknown_list}; it has {known_list}"


def sorted_names(names: Collection[str]) -> list[str]:
    """The names in alphabetical order, or by their values if all of them are whole numbers.

    >>> sorted_names({"10", "9", "1"}), sorted_names({"b10", "b9"})
    (['1', '9', '10'], ['b10', 'b9'])
    """
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def checked_classes(
    classes: Sequence[str], at_least: int = 2, *, refuse_case_twins: bool = True
) -> tuple[str, ...]:
    """The names of classes as a tuple of strings.

    refuse_case_twins: whether names that differ only in case, as typing errors do, are an error.
    Raises ValueError for fewer than `at_least` names, and for equal ones.
    """
    if len(classes) < at_least:
        minimum = "two classes" if at_least == 2 else "one class"
        raise ValueError(f"a classifier needs at least {minimum}, found only {list(classes)}")
    # letters with accents have two spellings, which look the same
    names = tuple(unicodedata.normalize("NFC", str(name)) for name in classes)
    if refuse_case_twins:
        _refuse_case_twins(names)
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"two classes are called {name!r}; pass classes= with one name for each"
            )
    return names


def _refuse_case_twins(names: Sequence[str]) -> None:
    first_spelling: dict[str, str] = {}
    for name in names:
        twin = first_spelling.setdefault(name.casefold(), name)
        if twin != name:
            raise ValueError(f"classes {twin!r} and {name!r} differ only in case; rename one")
