"""Depthwise convolutions on CPUs: a faster weight gradient, and float32 where bf16 is slower.

For kernels of 5 and more, the gradient of the weights takes the CPU library several times as long
as the forward pass. It is itself a depthwise convolution, of each picture's input with the
gradient of its output as the kernel, and that one is fast. EfficientNet-Lite0, 128 px, AVX2: a
training step takes 0.87 of the time; the 7 x 7 kernels of a ConvNeXt half of theirs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_Size = tuple[int, int]
SMALLEST_KERNEL = 5
"""Below it the library's own way is as fast."""


class DepthwiseConvolutions(TorchFunctionMode):
    """Inside this context depthwise convolutions take the way above; all others are as they were.

    Under autocast they compute in float32 and give back the type they got: their backward pass is
    slower in bf16 than in float32. The numbers differ from the library's by rounding only.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d:
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def are_in(model: nn.Module, *, smallest_kernel: int = 1) -> bool:
    """Whether the model has depthwise convolutions with such kernels."""
    return any(
        isinstance(m, nn.Conv2d)
        and 1 < m.groups == m.in_channels == m.out_channels
        and max(m.kernel_size) >= smallest_kernel
        for m in model.modules()
    )


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
    if not depthwise or isinstance(padding, str) or input.dtype == torch.float64:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    half = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if half else input.dtype
    own = max(weight.shape[2:]) >= SMALLEST_KERNEL and _pair(stride) == _pair(dilation) == (1, 1)
    own = own and weight.requires_grad and torch.is_grad_enabled()
    x, w, b = input.float(), weight.float(), None if bias is None else bias.float()
    with torch.autocast("cpu", enabled=False):
        if own:
            output: Tensor = _Depthwise.apply(x, w, b, _pair(padding))
        else:
            output = torch.conv2d(x, w, b, stride, padding, dilation, groups)
    return output.to(dtype)


def _pair(value: int | _Size) -> _Size:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Depthwise(torch.autograd.Function):
    """Stride and dilation 1. input [B, C, H, W], weight [C, 1, K, L], bias [C] or None."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, padding: _Size
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.padding = padding
        return torch.conv2d(input, weight, bias, 1, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), padding = ctx.saved_tensors, ctx.padding
        for_input, for_weight, for_bias = ctx.needs_input_grad[:3]
        of_input = of_weight = of_bias = None
        if for_input:
            of_input, _, _ = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, (1, 1), padding, (1, 1), False, (0, 0), len(weight),
                [True, False, False],
            )  # fmt: skip
        if for_weight:
            batch, channels = input.shape[:2]
            kernels = gradient.contiguous().view(batch * channels, 1, *gradient.shape[2:])
            pictures = input.contiguous().view(1, batch * channels, *input.shape[2:])
            each = torch.conv2d(pictures, kernels, None, 1, padding, 1, batch * channels)
            of_weight = each.view(batch, channels, *weight.shape[2:]).sum(0).unsqueeze(1)
        if for_bias:
            of_bias = gradient.sum((0, 2, 3))
        return of_input, of_weight, of_bias, None
