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
        for part in _parts_of(value).values():
            yield from tensors_in(part)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same structure with what `function` makes of each tensor; all else stays as it is.

    A list becomes a tuple. Mappings, named tuples and data classes keep their type.

    >>> map_tensors(lambda tensor: tensor.tolist(), {"a": [torch.ones(2), "text"], "b": None})
    {'a': ([1.0, 1.0], 'text'), 'b': None}
    """
    if isinstance(value, Tensor):
        return function(value)
    parts = _parts_of(value)
    if not parts:
        return value
    return _rebuilt(value, {name: map_tensors(function, part) for name, part in parts.items()})


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
    is_list = isinstance(value, list | tuple)
    if is_list and len(value) == count and next(tensors_in(value), None) is None:
        numbers = torch.arange(count)[rows].tolist()
        return tuple(value[number] for number in numbers)
    parts = _parts_of(value)
    if not parts:
        return value
    return _rebuilt(value, {name: rows_of(part, rows, count) for name, part in parts.items()})


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
    if isinstance(first, list | tuple) and next(tensors_in(first), None) is None:
        return tuple(chain.from_iterable(values))
    parts_of_values = [_parts_of(value) for value in values]
    if not parts_of_values[0]:
        return first
    joined = {}
    for name in parts_of_values[0]:
        joined[name] = concatenated([parts[name] for parts in parts_of_values])
    return _rebuilt(first, joined)


def _concatenated_tensors(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].ndim == 0:
        return torch.stack(list(tensors))
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        shapes = ", ".join(sorted({str(list(tensor.shape)) for tensor in tensors}))
        raise ValueError(f"batches of different shapes can't be put together: {shapes}")
    return torch.cat(list(tensors))


def main_output(outputs: Any) -> Any:
    """The output that answers: a tensor itself, a tuple's first, a mapping's "logits".

    A mapping's only entry is one as well. Raises ValueError for a mapping that says nothing.

    >>> main_output({"logits": torch.ones(1), "features": torch.zeros(1)}).item()
    1.0
    """
    return _main_part(outputs, _OUTPUT_NAMES, "the model's outputs")


def main_target(targets: Any) -> Any:
    """The target that answers are compared with: a tensor itself, a tuple's first, or a mapping's
    "label", "labels", "target", "targets" or only entry.

    Raises ValueError for a mapping that says nothing.
    """
    return _main_part(targets, _TARGET_NAMES, "the targets")


def _main_part(value: Any, names: tuple[str, ...], what: str) -> Any:
    parts = _parts_of(value)
    if not parts:
        return value
    for name in names:
        if name in parts:
            return _main_part(parts[name], names, what)
    if len(parts) > 1 and not isinstance(value, list | tuple):
        raise ValueError(
            f"which of {what} {', '.join(map(repr, parts))} counts? call it "
            f"{' or '.join(map(repr, names))}, or return a tuple that begins with it"
        )
    return _main_part(next(iter(parts.values())), names, what)


def _parts_of(value: Any) -> dict[Any, Any]:
    """The parts of a structure by name or number; empty for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", range(len(value)))
        return dict(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}


def _rebuilt(value: Any, parts: dict[Any, Any]) -> Any:
    """A structure like `value` with other parts, by the names that `_parts_of` gave."""
    if isinstance(value, MutableMapping) and type(value) is not dict:
        # as a copy, since a type such as transformers' ModelOutput has a constructor of its own
        mapping: Any = copy.copy(value)
        for name, part in parts.items():
            mapping[name] = part
        return mapping
    if isinstance(value, Mapping):
        return parts
    if isinstance(value, list | tuple):
        is_named_tuple = hasattr(value, "_fields")
        return type(value)(**parts) if is_named_tuple else tuple(parts.values())
    structure = copy.copy(value)
    for name, part in parts.items():
        object.__setattr__(structure, name, part)  # a data class may be frozen
    return structure
