"""Tensors inside tuples, lists, mappings and data classes: counted, converted and cut as one.

What a loader gives and what a model gives may be one tensor or several with names. Whatever the
structure, the number of its examples is the first dimension of its tensors.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

_OUTPUT_NAMES = ("logits",)
_TARGET_NAMES = ("label", "labels", "target", "targets")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in a structure, in order; a numpy array is one."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield torch.as_tensor(value)
    else:
        for entry in _entries_of(value).values():
            yield from tensors_in(entry)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same structure with what `function` makes of each tensor; all else stays as it is.

    A list becomes a tuple. Mappings, named tuples and data classes keep their type.

    >>> map_tensors(lambda tensor: tensor.tolist(), {"a": [torch.ones(2), "text"], "b": None})
    {'a': ([1.0, 1.0], 'text'), 'b': None}
    """
    if isinstance(value, Tensor):
        return function(value)
    entries = _entries_of(value)
    if not entries:
        return value
    mapped = {name: map_tensors(function, entry) for name, entry in entries.items()}
    return _rebuilt(value, mapped)


def count_examples(*values: Any) -> int:
    """The first dimension of all tensors in these structures.

    A tensor without dimensions, such as a temperature, counts nothing. Where there is no tensor, a
    list of other things counts by its length. Raises ValueError for tensors that differ in their
    first dimension, and where nothing can be counted.

    >>> count_examples({"image": torch.zeros(5, 3)}, (torch.zeros(5), torch.tensor(0.1)))
    5
    """
    sizes: set[int] = set()
    for value in values:
        # the usual case, in every step, is a tensor
        tensors = (value,) if isinstance(value, Tensor) else tensors_in(value)
        sizes.update(len(tensor) for tensor in tensors if tensor.ndim)
    if len(sizes) > 1:
        raise ValueError(
            "the first dimension of every tensor in a batch is its number of examples, here they "
            f"differ: {'; '.join(map(shapes_in_words, values))}"
        )
    if sizes:
        return sizes.pop()
    for value in values:
        if isinstance(value, list | tuple):
            return len(value)
    kinds = ", ".join(type(value).__name__ for value in values)
    raise ValueError(f"a batch has no tensors by which to count its examples, but {kinds}")


def shapes_in_words(value: Any) -> str:
    """The shapes of the tensors in a structure, for an error.

    >>> shapes_in_words((torch.zeros(2, 3), {"label": torch.zeros(4)}))
    "([2, 3], {'label': [4]})"
    """
    return str(map_tensors(lambda tensor: list(tensor.shape), value))


def rows_of(value: Any, rows: slice | Tensor, count: int) -> Any:
    """These rows of every tensor in a structure of `count` examples.

    A list of one thing that is no tensor for each example is cut likewise; what is not one for each
    example stays as it is.
    """
    if isinstance(value, Tensor | np.ndarray):
        has_row_for_each = value.ndim > 0 and len(value) == count
        return value[rows] if has_row_for_each else value
    if _is_list_without_tensors(value) and len(value) == count:
        numbers = torch.arange(count)[rows].tolist()  # a list can't be indexed by a tensor
        return tuple(value[number] for number in numbers)
    entries = _entries_of(value)
    if not entries:
        return value
    cut = {name: rows_of(entry, rows, count) for name, entry in entries.items()}
    return _rebuilt(value, cut)


def concatenated(values: Sequence[Any]) -> Any:
    """Structures of one kind, such as the outputs of all batches, as one.

    Tensors without dimensions are stacked; of what is no tensor and no list the first one is taken.
    Raises ValueError for tensors that differ in more than the first dimension.
    """
    first = values[0]
    if isinstance(first, Tensor):
        return _concatenated_tensors(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if _is_list_without_tensors(first):
        return tuple(chain.from_iterable(values))
    entries_of_values = [_entries_of(value) for value in values]
    names = entries_of_values[0].keys()
    if not names:
        return first
    joined = {}
    for name in names:
        joined[name] = concatenated([entries[name] for entries in entries_of_values])
    return _rebuilt(first, joined)


def _concatenated_tensors(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].ndim == 0:
        return torch.stack(list(tensors))
    shapes_of_examples = {tensor.shape[1:] for tensor in tensors}
    if len(shapes_of_examples) > 1:
        shapes = sorted({str(list(tensor.shape)) for tensor in tensors})
        raise ValueError(f"batches of different shapes can't be put together: {', '.join(shapes)}")
    return torch.cat(list(tensors))


def _is_list_without_tensors(value: Any) -> bool:
    """Whether it is a list or tuple of other things, such as the names of files."""
    if not isinstance(value, list | tuple):
        return False
    return next(tensors_in(value), None) is None


def main_output(outputs: Any) -> Any:
    """The output that answers: a tensor itself, a tuple's first, a mapping's "logits".

    A mapping's only entry is one as well. Raises ValueError for a mapping that says nothing.

    >>> main_output({"logits": torch.ones(1), "features": torch.zeros(1)}).item()
    1.0
    """
    return _main_entry(outputs, _OUTPUT_NAMES, "the model's outputs")


def main_target(targets: Any) -> Any:
    """The target that answers are compared with: a tensor itself, a tuple's first, or a mapping's
    "label", "labels", "target", "targets" or only entry.

    Raises ValueError for a mapping that says nothing.
    """
    return _main_entry(targets, _TARGET_NAMES, "the targets")


def _main_entry(value: Any, names: tuple[str, ...], what: str) -> Any:
    """The tensor that counts, however deep it is inside.

    names: what it may be called in a mapping. what: the structure, for the error.
    """
    entries = _entries_of(value)
    if not entries:
        return value
    for name in names:
        if name in entries:
            return _main_entry(entries[name], names, what)
    first_counts = len(entries) == 1 or isinstance(value, list | tuple)
    if not first_counts:
        present = ", ".join(map(repr, entries))
        wanted = " or ".join(map(repr, names))
        raise ValueError(
            f"which of {what} {present} counts? call it {wanted}, or return a tuple that begins "
            "with it"
        )
    first = next(iter(entries.values()))
    return _main_entry(first, names, what)


def _entries_of(value: Any) -> dict[Any, Any]:
    """What a structure holds, by name or number; empty for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", range(len(value)))
        return dict(zip(names, value, strict=True))
    is_data_class = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_data_class:
        # not dataclasses.asdict, which would copy every tensor
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def _rebuilt(value: Any, entries: dict[Any, Any]) -> Any:
    """A structure like `value` with other entries, by the names that `_entries_of` gave."""
    if isinstance(value, MutableMapping) and type(value) is not dict:
        # as a copy, since a type such as transformers' ModelOutput has a constructor of its own
        mapping: Any = copy.copy(value)
        for name, entry in entries.items():
            mapping[name] = entry
        return mapping
    if isinstance(value, Mapping):
        return entries
    if isinstance(value, list | tuple):
        is_named_tuple = hasattr(value, "_fields")
        return type(value)(**entries) if is_named_tuple else tuple(entries.values())
    structure = copy.copy(value)
    for name, entry in entries.items():
        object.__setattr__(structure, name, entry)  # a data class may be frozen
    return structure
