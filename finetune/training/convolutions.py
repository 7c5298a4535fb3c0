"""Convolutions on CPUs: gradients by faster ways, and float32 where bf16 is slower.

- Kernels of 5 and more that are depthwise: the library takes several times as long for the gradient
  of the weights as for the forward pass. It is itself a depthwise convolution, of each picture's
  input with the gradient of its output as the kernel, and that one is fast: 14 to 10 ms for 240
  channels of 16 x 16, 37 to 3 ms for 1,152 of 4 x 4, both 5 x 5, a batch of 64, AVX2.
- The gradient of a bias is a sum, which takes the library up to twice the time of the weights'.
- Under autocast, depthwise convolutions compute in float32: backwards they are slower in bf16.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_Size = tuple[int, int]
SMALLEST_KERNEL = 5
"""Of a depthwise convolution that takes our way; below it the library's is as fast."""


class Convolutions(TorchFunctionMode):
    """Inside this context convolutions take the ways above, with the same numbers to rounding."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        called = _conv2d if func is torch.conv2d else func
        return called(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | _Size = 1,
    padding: int | str | _Size = 0,
    dilation: int | _Size = 1,
    groups: int = 1,
) -> Tensor:
    depthwise = input.dim() == 4 and groups > 1 and groups == input.shape[1] == len(weight)
    half = torch.is_autocast_enabled("cpu")
    if half and depthwise:
        with torch.autocast("cpu", enabled=False):
            parts = (input.float(), weight.float(), None if bias is None else bias.float())
            output = _conv2d(*parts, stride, padding, dilation, groups)
        return output.to(torch.get_autocast_dtype("cpu"))
    step = (_pair(stride), _pair(dilation))
    own = depthwise and max(weight.shape[2:]) >= SMALLEST_KERNEL and step == ((1, 1), (1, 1))
    useful = own or (bias is not None and bias.requires_grad)
    trains = torch.is_grad_enabled() and weight.requires_grad and input.dtype == torch.float32
    if not useful or not trains or half or input.dim() != 4 or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    rest = (_pair(stride), _pair(padding), _pair(dilation), groups)
    result: Tensor = _Convolution.apply(input, weight, bias, *rest, own)
    return result


def _pair(value: int | _Size) -> _Size:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Convolution(torch.autograd.Function):
    """input [B, C, H, W], weight [D, C / groups, K, L], bias [D] or None.

    own: whether the weight's gradient goes our way; for C = D = groups, stride and dilation 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: _Size,
        padding: _Size,
        dilation: _Size,
        groups: int,
        own: bool,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options, ctx.own = (stride, padding, dilation, groups), own
        return torch.conv2d(input, weight, bias, *ctx.options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        for_input, for_weight, for_bias = ctx.needs_input_grad[:3]
        theirs = [for_input, for_weight and not ctx.own, False]
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, input, weight, None, stride, padding, dilation, False, (0, 0), groups, theirs
        )
        if for_weight and ctx.own:
            of_weight = _depthwise_gradient(input, gradient, padding)
        of_bias = gradient.sum((0, 2, 3)) if for_bias else None
        return of_input, of_weight, of_bias, None, None, None, None, None


def _depthwise_gradient(input: Tensor, gradient: Tensor, padding: _Size) -> Tensor:
    """Of the weights [C, 1, K, L]: every channel of every picture is a channel by itself."""
    batch, channels = input.shape[:2]
    count = batch * channels
    kernels = gradient.contiguous().view(count, 1, *gradient.shape[2:])
    pictures = input.contiguous().view(1, count, *input.shape[2:])
    each = torch.conv2d(pictures, kernels, None, 1, padding, 1, count)
    return each.view(batch, channels, *each.shape[2:]).sum(0).unsqueeze(1)
