"""Whether saved optimizer state can be that of these parameters, before any of it is loaded.

Torch's own `load_state_dict` takes state of any shape, and the step after it fails or broadcasts.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

_OWN_SHAPES = ("Adafactor", "LBFGS")
"""Optimizers of torch whose state of a parameter is not as large as the parameter."""


def check_shapes(
    saved: Mapping[str, Mapping[str, object]], parameters: Mapping[str, Tensor]
) -> None:
    """Raises ValueError for a tensor that can't be state of its parameter, whatever the optimizer.

    saved: entries of the state by the parameter's name. parameters: by name, those of `saved` among
    them.
    """
    for name, entries in saved.items():
        parameter_shape = parameters[name].shape
        for key, value in entries.items():
            if isinstance(value, Tensor) and not _may_be_state(value.shape, parameter_shape):
                raise ValueError(
                    f"optimizer state {key} of {name!r} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(parameter_shape)}"
                )


def _may_be_state(state: torch.Size, parameter: torch.Size) -> bool:
    """Whether a tensor of this shape may be state of a parameter of that shape.

    Of the same rank, each size must be 1 (Adafactor) or one of the parameter's; a state of another
    rank may have any shape (Shampoo).
    """
    if len(state) != len(parameter):
        return True
    return all(size == 1 or size in parameter for size in state)


def check_entries(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    saved: Mapping[str, Mapping[str, object]],
) -> None:
    """Raises ValueError for state that the step of one of torch's optimizers could not use.

    All of its parameters have the same entries: tensors as large as the parameter, and a count of
    steps. A buffer of momentum may come later, or be unused. Of an optimizer that is not torch's
    nothing is known.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ in _OWN_SHAPES:
        return
    # a parameter that was frozen all the time has none
    states = {name: saved[name] for name in parameters if saved.get(name)}
    expected: set[str] = set()
    for entries in states.values():
        expected.update(entries)
    expected.discard("momentum_buffer")
    if expected:
        expected.add("step")
    for name, entries in states.items():
        shape = parameters[name].shape
        missing = sorted(expected - entries.keys())
        if missing:
            raise ValueError(f"optimizer state of {name!r} has no {missing[0]}")
        for key, value in entries.items():
            if not _is_usable(key, value, shape):
                shown = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
                raise ValueError(
                    f"optimizer state {key} of {name!r} is {shown}, the parameter {tuple(shape)}"
                )


def _is_usable(key: str, value: object, parameter_shape: torch.Size) -> bool:
    if key == "step":
        is_scalar_tensor = isinstance(value, Tensor) and value.ndim == 0
        return is_scalar_tensor or isinstance(value, int | float)
    if value is None:
        return key == "momentum_buffer"
    return isinstance(value, Tensor) and value.shape in (parameter_shape, ())
