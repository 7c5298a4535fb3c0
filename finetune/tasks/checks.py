"""Words for errors about values that are not what a task takes."""

from typing import Any

from torch import Tensor


def dtype_and_shape(value: Any) -> str:
    """What a tensor is like, or the type of what is none, for an error.

    >>> import torch
    >>> dtype_and_shape(torch.zeros(2, 3)), dtype_and_shape({})
    ('float32 [2, 3]', 'dict')
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} {list(value.shape)}"
