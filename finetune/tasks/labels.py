"""Labels as people write them -> targets as a model learns them, and the names of its outputs."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.tasks.task import Task


def encode(
    labels: Sequence[Any], classes: Sequence[str] | None, task: Task, *, of_training: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """Targets and the names of the model's outputs, in order (see `sorted_names`) unless given.

    single_label: a class name each -> int64 [N]. multi_label: a list of names each, which may be
    empty -> float32 [N, C], 0 and 1. regression: a number or a list of K numbers each ->
    float32 [N, K], with "target" or "target_0", ... as names.
    of_training: the classes are training's, which others may not exceed.

    >>> encode([["cat", "dog"], []], None, "multi_label")
    (tensor([[1., 1.],
            [0., 0.]]), ('cat', 'dog'))
    """
    labels = plain(labels)
    if task == "regression":
        return _numbers(labels, classes)
    if task == "multi_label":
        return _many(labels, classes, of_training)
    found = words(labels)
    names, index = numbered(set(found), classes, of_training=of_training)
    return torch.tensor([index[name] for name in found]), names


def words(labels: Sequence[Any]) -> list[str]:
    """Class names, one an image. Raises ValueError for what is none, with the image's number."""
    return [word(label, f"image {i}") for i, label in enumerate(labels)]


def word(label: Any, where: str) -> str:
    """The class name that a label is, or that a number stands for. where: its place, for errors."""
    value = label.item() if getattr(label, "ndim", None) == 0 else label  # of a tensor or an array
    if is_missing(value):
        raise ValueError(f"{where} has no label, but {value!r}; leave it out or label it")
    if isinstance(value, Iterable) and not isinstance(value, str):
        raise ValueError(
            f"{where} needs one class name, got {value!r}; for several labels an image "
            "pass task='multi_label', for numbers task='regression'"
        )
    return str(value)


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or what pandas has for them."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def plain(labels: Sequence[Any]) -> Sequence[Any]:
    """Of an array, a tensor or a column: Python's own values."""
    found: Sequence[Any] = labels.tolist() if hasattr(labels, "tolist") else labels
    return found


def numbered(
    found: Collection[str],
    classes: Sequence[str] | None,
    *,
    least: int = 2,
    of_training: bool = True,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, which are those found in sorted order unless given, and each one's index."""
    names = check_classes(sorted_names(found) if classes is None else classes, least)
    index = {name: i for i, name in enumerate(names)}
    unknown = ", ".join(map(repr, sorted(set(found) - index.keys())))
    known = ", ".join(map(repr, names))
    if unknown and of_training:
        raise ValueError(
            f"validation has classes that training lacks: {unknown}; training has {known}"
        )
    if unknown:
        raise ValueError(f"there are labels that classes= lacks: {unknown}; it has {known}")
    return names, index


def sorted_names(names: Collection[str]) -> list[str]:
    """Sorted; whole numbers by their values.

    >>> sorted_names({"10", "9", "1"}), sorted_names({"b10", "b9"})
    (['1', '9', '10'], ['b10', 'b9'])
    """
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_classes(classes: Sequence[str], least: int = 2, *, case: bool = True) -> tuple[str, ...]:
    """The names as a tuple. case: refuse those that differ only in it, as typing errors do."""
    if len(classes) < least:
        count = "two classes" if least == 2 else "one class"
        raise ValueError(f"a classifier needs at least {count}, found only {list(classes)}")
    names = tuple(str(name) for name in classes)
    folded: dict[str, str] = {}
    for name in names:
        twin = folded.setdefault(name.casefold() if case else name, name)
        if twin != name:
            raise ValueError(f"classes {twin!r} and {name!r} differ only in case; rename one")
    if len(folded) < len(names):
        equal = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes are called {equal!r}; pass classes= with one name for each")
    return names


def _many(
    labels: Sequence[Any], classes: Sequence[str] | None, of_training: bool
) -> tuple[Tensor, tuple[str, ...]]:
    rows: list[list[str]] = []
    for label in labels:
        names = None if isinstance(label, str) or not isinstance(label, Iterable) else list(label)
        if names is None or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"the labels of an image are a list of names, which may be empty, got {label!r}"
            )
        rows.append(names)
    found = {name for row in rows for name in row}
    known, index = numbered(found, classes, least=1, of_training=of_training)
    targets = torch.zeros(len(rows), len(known))
    for target, row in zip(targets, rows, strict=True):
        target[[index[name] for name in row]] = 1
    return targets, known


def _numbers(
    labels: Sequence[Any], classes: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    rows: list[list[float]] = []
    for i, label in enumerate(labels):
        alone = isinstance(label, str) or not isinstance(label, Iterable)
        values = [label] if alone else list(label)
        try:
            row = [float(value) for value in values]
        except (TypeError, ValueError):
            row = []
        if not row or not all(map(math.isfinite, row)):
            raise ValueError(f"the target of image {i} is no finite number: {label!r}")
        if rows and len(row) != len(rows[0]):
            raise ValueError(f"image {i} has {len(row)} targets, the first one has {len(rows[0])}")
        rows.append(row)
    width = len(rows[0])
    usual = ["target"] if width == 1 else [f"target_{i}" for i in range(width)]
    names = usual if classes is None else classes
    if len(names) != width:
        raise ValueError(f"there are {width} targets but {len(names)} names: {list(names)}")
    return torch.tensor(rows), check_classes(names, 1)


def texts(targets: Tensor, names: Sequence[str], task: Task) -> list[str]:
    """Each target in words: the class, the classes, or the values.

    >>> texts(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), ["cat", "dog"], "multi_label")
    ['cat, dog', '(none)']
    """
    if task == "single_label":
        return [names[label] for label in targets.tolist()]
    rows: list[list[float]] = targets.tolist()
    if task == "multi_label":
        found = ([n for n, there in zip(names, row, strict=True) if there] for row in rows)
        return [", ".join(some) or "(none)" for some in found]
    if len(names) == 1:
        return [f"{value:.4g}" for (value,) in rows]
    return [", ".join(f"{n} {v:.4g}" for n, v in zip(names, row, strict=True)) for row in rows]
