"""Fingerprints: what tells two runs apart, as short plain values by name.

A fingerprint is cheap to make, also for a million examples, and is stored in a checkpoint. Whatever
may change between the two halves of a run, such as the folder of the images, is not in it.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.files.names import shared_folder

Value: TypeAlias = str | int | float | bool | None
Fingerprint: TypeAlias = dict[str, Value]

_DIGEST = "digest "
_MOST_BYTES = 64_000_000
"""Of a larger tensor, rows at equal distances are read."""

_MOST_NUMBERS = 100
"""A tensor with more numbers is known by its digest, one with fewer by the numbers."""

_LARGEST_CONTAINER = 16
"""A longer list is one of examples, and no list of data sets or of columns."""

_DEEPEST_DATASET = 5
"""Data sets further inside are not looked at: one that holds itself would never end."""

_PLAIN_ENTRIES = (str, int, float, Path, np.generic)
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def differences(saved: Mapping[str, Value], present: Mapping[str, Value]) -> list[str]:
    """What differs, in words. A name that only one of them has is of another version, and skipped.

    >>> differences({"batch size": 8, "classes": 3}, {"batch size": 16, "classes": 3})
    ['batch size was 8 and is 16']
    """
    words = []
    for name, value in present.items():
        if name not in saved or _are_same(saved[name], value):
            continue
        saved_value = saved[name]
        # a digest would say nothing to a reader
        if _is_digest(saved_value) or _is_digest(value):
            words.append(name)
        else:
            words.append(f"{name} was {saved_value} and is {value}")
    return words


def _are_same(saved: Value, present: Value) -> bool:
    are_both_nan = saved != saved and present != present
    return saved == present or are_both_nan


def _is_digest(value: Value) -> bool:
    return isinstance(value, str) and value.startswith(_DIGEST)


def of_texts(texts: Iterable[str]) -> str:
    """A digest of texts, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        # names of files need not be valid Unicode
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return _DIGEST + digest.hexdigest()


def of_paths(paths: Sequence[str]) -> str:
    """A digest of paths, relative to the folder that they have in common."""
    prefix = shared_folder(paths)
    return of_texts(path.removeprefix(prefix) for path in paths)


def of_tensor(tensor: Tensor) -> str:
    """The numbers of a small tensor, or a digest of shape and content."""
    values = tensor.detach()
    if values.numel() <= _MOST_NUMBERS:
        # rounded: another machine may compute the last digits otherwise
        return ", ".join(f"{value:.6g}" for value in values.double().flatten().tolist())
    step = max(1, values.nbytes // _MOST_BYTES)
    rows = values[::step].cpu().contiguous()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(rows.flatten().view(torch.uint8).numpy().tobytes())
    return _DIGEST + digest.hexdigest()


def of_object(name: str, thing: Any) -> Fingerprint:
    """The class or function, and its plain attributes and tensors. name: how the keys begin.

    Parameters are left out: they are trained.

    >>> of_object("loss", nn.CrossEntropyLoss(label_smoothing=0.1))["loss label_smoothing"]
    0.1
    """
    if isinstance(thing, functools.partial):
        fingerprint = of_object(name, thing.func)
        for position, argument in enumerate(thing.args):
            fingerprint |= _of_attribute(f"{name} argument {position + 1}", argument)
        for key, argument in thing.keywords.items():
            fingerprint |= _of_attribute(f"{name} {key}", argument)
        return fingerprint
    if callable(thing) and hasattr(thing, "__qualname__"):
        return {name: thing.__qualname__, **_of_closure(name, thing)}
    fingerprint = {name: type(thing).__qualname__}
    for key, value in _attributes(thing).items():
        if not key.startswith("_") and key != "training":
            fingerprint |= _of_attribute(f"{name} {key}", value)
    if isinstance(thing, nn.Module):
        for key, buffer in thing.named_buffers():
            fingerprint |= _of_attribute(f"{name} {key}", buffer)
    return fingerprint


def _attributes(thing: Any) -> dict[str, Any]:
    # a data class with slots has no __dict__
    if is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in fields(thing)}
    return getattr(thing, "__dict__", {})


def _of_closure(name: str, function: Callable[..., Any]) -> Fingerprint:
    """The plain values that a function has from where it was defined."""
    fingerprint: Fingerprint = {}
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    if code is None:
        return fingerprint
    for key, cell in zip(code.co_freevars, cells, strict=True):
        try:
            fingerprint |= _of_attribute(f"{name} {key}", cell.cell_contents)
        except ValueError:  # a cell that is not filled yet
            continue
    return fingerprint


def _of_attribute(name: str, value: Any) -> Fingerprint:
    """The value where it is plain or numbers; nothing where it is any other object."""
    tensor = _as_tensor(value)
    if tensor is not None:
        return {name: of_tensor(tensor)}
    # a file can hold no other types than Python's own
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        value = value.value
    if value is None or type(value) in (bool, int, float, str):
        return {name: value}
    is_list = isinstance(value, list | tuple)
    if is_list and all(isinstance(item, int | float) for item in value):
        return {name: of_tensor(torch.tensor(value, dtype=torch.float64))}
    return {}


def _as_tensor(value: Any) -> Tensor | None:
    """A tensor, or an array of numbers as one; None for anything else.

    A tensor that is sparse or without values has no memory to be read, and counts as anything else.
    """
    if isinstance(value, Tensor):
        has_memory = value.layout == torch.strided and not value.is_meta
        return value if has_memory else None
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return tensor_of_array(value)
    return None


def tensor_of_array(array: NDArray[Any]) -> Tensor:
    """The numbers of an array, which may be one that can't be written to.

    Of such a one PyTorch would warn the user, so that it is copied.
    """
    return torch.from_numpy(np.require(np.ascontiguousarray(array), requirements="W"))


def of_modules(modules: Iterable[nn.Module]) -> str:
    """A digest of the classes and the settings of modules, such as the rate of a dropout layer."""
    texts = []
    for module in modules:
        text = f"{type(module).__qualname__}({module.extra_repr()})"
        texts.append(_ADDRESS.sub("", text))
    return of_texts(texts)


def of_examples(name: str, dataset: Any) -> Fingerprint:
    """The number of examples of a data set, and a digest of what it has one of for each of them.

    That is every attribute with as many plain entries as there are examples: tensors, arrays, names
    of files, labels, indices; also those of a data set inside of it. Nothing is read by index.
    """
    count = _length_of(dataset)
    if count is None:
        return {name: type(dataset).__qualname__}
    columns = dict(_columns(dataset, count, depth=0))
    return {
        f"number of {name}": count,
        name: of_texts(f"{key}: {value}" for key, value in sorted(columns.items())),
    }


def _length_of(dataset: Any) -> int | None:
    """None for a data set without a fixed length, which may say so by an error of its own."""
    try:
        return len(dataset)
    except Exception:
        return None


def _columns(dataset: Any, count: int, *, depth: int) -> Iterable[tuple[str, str]]:
    """The columns among the attributes of a data set, by the names of the attributes."""
    for key, value in getattr(dataset, "__dict__", {}).items():
        is_short_list = isinstance(value, list | tuple) and len(value) <= _LARGEST_CONTAINER
        if is_short_list and _column(value, count) is None:
            # the tensors of a TensorDataset, the parts of a ConcatDataset
            for position, item in enumerate(value):
                yield from _columns_of_value(f"{key}.{position}", item, count, depth)
        else:
            yield from _columns_of_value(key, value, count, depth)


def _columns_of_value(key: str, value: Any, count: int, depth: int) -> Iterable[tuple[str, str]]:
    """The value itself if it is a column, or the columns of the data set that it is."""
    column = _column(value, count)
    if column is not None:
        yield key, column
    elif isinstance(value, torch.utils.data.Dataset) and depth < _DEEPEST_DATASET:
        inner_count = _length_of(value)
        if inner_count is None:
            inner_count = -1  # which no column has
        for inner_key, inner_column in _columns(value, inner_count, depth=depth + 1):
            yield f"{key}.{inner_key}", inner_column


def _column(value: Any, count: int) -> str | None:
    """A digest of an attribute with one plain entry for each example; None for any other."""
    tensor = _as_tensor(value)
    if tensor is not None:
        has_row_for_each = tensor.ndim > 0 and len(tensor) == count
        return of_tensor(tensor) if has_row_for_each else None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple | range) or len(value) != count:
        return None
    texts = []
    for entry in value:
        cells = entry if isinstance(entry, tuple) else (entry,)
        # anything else may be a cache that fills
        if not all(isinstance(cell, _PLAIN_ENTRIES) for cell in cells):
            return None
        texts.append("\t".join(map(str, cells)))
    return of_paths(texts)
