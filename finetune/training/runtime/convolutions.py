"""Convolutions on CPUs: gradients by faster ways, with the same numbers to rounding.

A depthwise convolution's gradients are depthwise convolutions themselves, of the kind that the
library is good at, while its own ways for them are slow; milliseconds for a batch of 64, two cores:

| channels, side, kernel, stride | gradient of | library | ours |
|---|---|---:|---:|
| 240 x 16, 5 x 5, 1 | weights, float32 | 15 | 7 |
| 240 x 16, 5 x 5, 1 | weights, bf16 | 39 | 4 |
| 1,152 x 4, 5 x 5, 1 | weights, float32 | 6 | 3 |
| 96 x 64, 3 x 3, 2 | input, bf16 | 105 | 6 |
| 672 x 8, 5 x 5, 1 | input, float32 | 2.0 | 0.8 |

The gradient of a float32 bias is a sum, which takes the library up to twice the time of the
weights' gradient; in bf16 it comes with that one for nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_Size = tuple[int, int]
SMALLEST_KERNEL = 5
"""Of a depthwise convolution whose weights' gradient goes our way; below it the library's is as
fast."""


class Convolutions(TorchFunctionMode):
    """Inside this context convolutions take the ways above."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        called = _conv2d if func is torch.conv2d else func
        return called(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class _Options:
    """Of a convolution, and which of its gradients go our way."""

    stride: _Size
    padding: _Size
    dilation: _Size
    groups: int
    own_input: bool = False
    own_weight: bool = False
    own_bias: bool = False

    @property
    def plain(self) -> tuple[_Size, _Size, _Size, int]:
        return self.stride, self.padding, self.dilation, self.groups


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | _Size = 1,
    padding: int | str | _Size = 0,
    dilation: int | _Size = 1,
    groups: int = 1,
) -> Tensor:
    # as everywhere under autocast, float64 stays what it is
    half = torch.is_autocast_enabled("cpu") and torch.float64 not in (input.dtype, weight.dtype)
    differentiates = torch.is_grad_enabled() and (weight.requires_grad or input.requires_grad)
    known = half or input.dtype == weight.dtype == torch.float32
    if not differentiates or not known or input.dim() != 4 or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    sizes = (_pair(stride), _pair(padding), _pair(dilation))
    own = _ways(weight, sizes, depthwise=groups > 1 and groups == input.shape[1] == len(weight),
                biased=bias is not None and bias.requires_grad, half=half)  # fmt: skip
    if not any(own):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    parts: tuple[Tensor | None, ...] = (input, weight, bias)
    if half:
        dtype = torch.get_autocast_dtype("cpu")
        parts = tuple(None if part is None else part.to(dtype) for part in parts)
    result: Tensor = _Convolution.apply(*parts, _Options(*sizes, groups, *own))
    return result


def _pair(value: int | _Size) -> _Size:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _ways(
    weight: Tensor, sizes: tuple[_Size, _Size, _Size], *, depthwise: bool, biased: bool, half: bool
) -> tuple[bool, bool, bool]:
    """Whether the gradients of input, weight and bias go our way."""
    stride, padding, dilation = sizes
    kernel = weight.shape[2:]
    dense = stride == (1, 1)
    inside = all(p <= d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    large = max(kernel) >= SMALLEST_KERNEL and (half or (dense and dilation == (1, 1)))
    of_weight = depthwise and large and weight.requires_grad
    # the library's way for a bias alone computes the weights' gradient, too
    return depthwise and inside and (dense or half), of_weight, biased and (of_weight or not half)


class _Convolution(torch.autograd.Function):
    """input [B, C, H, W], weight [D, C / groups, K, L], bias [D] or None; own ways for the input
    and the weight are for C = D = groups."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, options: _Options
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return torch.conv2d(input, weight, bias, *options.plain)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        own: _Options = ctx.options
        for_input, for_weight, for_bias = ctx.needs_input_grad[:3]
        theirs = [
            for_input and not own.own_input,
            for_weight and not own.own_weight,
            for_bias and not own.own_bias,
        ]
        of_input, of_weight, of_bias = None, None, None
        if any(theirs):
            *plain, groups = own.plain
            of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
                gradient, input, weight, [len(weight)], *plain, False, (0, 0), groups, theirs
            )
        if for_input and own.own_input:
            of_input = _input_gradient(input, weight, gradient, own)
        if for_weight and own.own_weight:
            of_weight = _weight_gradient(input, weight, gradient, own)
        if for_bias and own.own_bias:
            of_bias = gradient.sum((0, 2, 3))
        return of_input, of_weight, of_bias, None


def _input_gradient(input: Tensor, weight: Tensor, gradient: Tensor, own: _Options) -> Tensor:
    """The gradient, with zeros where the stride left pixels out, under the turned kernel."""
    reach = [d * (k - 1) for d, k in zip(own.dilation, weight.shape[2:], strict=True)]
    rest = [r - p for r, p in zip(reach, own.padding, strict=True)]
    if own.stride != (1, 1):
        height, width = (
            size + 2 * p - r for size, p, r in zip(input.shape[2:], own.padding, reach, strict=True)
        )
        kept, (down, across) = gradient, own.stride
        gradient = torch.empty(
            (*kept.shape[:2], height, width), dtype=kept.dtype, memory_format=torch.channels_last
        ).zero_()
        gradient[:, :, ::down, ::across] = kept
    return torch.conv2d(gradient, weight.flip(2, 3), None, 1, rest, own.dilation, own.groups)


def _weight_gradient(input: Tensor, weight: Tensor, gradient: Tensor, own: _Options) -> Tensor:
    """[C, 1, K, L]: every channel of every image is a channel by itself, and the gradient of its
    output its kernel; stride and dilation change places."""
    batch, channels = input.shape[:2]
    count = batch * channels
    kernels = gradient.contiguous().view(count, 1, *gradient.shape[2:])
    images = input.contiguous().view(1, count, *input.shape[2:])
    each = torch.conv2d(images, kernels, None, own.dilation, own.padding, own.stride, count)
    height, width = weight.shape[2:]
    each = each[:, :, :height, :width].reshape(batch, channels, height, width)
    return each.sum(0).unsqueeze(1)
