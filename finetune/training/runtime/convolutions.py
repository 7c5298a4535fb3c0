"""Convolutions on CPUs: gradients by faster ways, with the same numbers to rounding.

The gradients of a depthwise convolution are depthwise convolutions themselves, of the kind that
torch's CPU library (oneDNN) is fast at, while its own kernels for these gradients are slow.
Milliseconds for a batch of 64 on two cores:

| channels, side, kernel, stride | gradient of | library | ours |
|---|---|---:|---:|
| 240 x 16, 5 x 5, 1 | weights, float32 | 15 | 7 |
| 240 x 16, 5 x 5, 1 | weights, bf16 | 39 | 4 |
| 1,152 x 4, 5 x 5, 1 | weights, float32 | 6 | 3 |
| 96 x 64, 3 x 3, 2 | input, bf16 | 105 | 6 |
| 672 x 8, 5 x 5, 1 | input, float32 | 2.0 | 0.8 |

The gradient of a float32 bias is a sum, for which the library takes up to twice the time of the
weights' gradient; in bf16 it comes with that gradient for nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_Size = tuple[int, int]
SMALLEST_KERNEL = 5
"""Side of the smallest depthwise kernel whose gradient we compute; the library is as fast below."""


class Convolutions(TorchFunctionMode):
    """Inside this context the gradients of convolutions are computed in the ways above."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            func = _conv2d
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Which gradients of a convolution we compute; the library computes the others."""

    of_input: bool
    of_weight: bool
    of_bias: bool


@dataclass(frozen=True, slots=True)
class _Options:
    """How a convolution goes over its input."""

    stride: _Size
    padding: _Size
    dilation: _Size
    groups: int


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | _Size = 1,
    padding: int | str | _Size = 0,
    dilation: int | _Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`, with our gradients where they are faster."""
    # as everywhere under autocast, float64 stays what it is
    has_float64 = torch.float64 in (input.dtype, weight.dtype)
    autocasts = torch.is_autocast_enabled("cpu") and not has_float64
    differentiates = torch.is_grad_enabled() and (weight.requires_grad or input.requires_grad)
    has_known_dtype = autocasts or input.dtype == weight.dtype == torch.float32
    is_batch = input.dim() == 4
    may_be_ours = differentiates and has_known_dtype and is_batch
    if not may_be_ours or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    options = _Options(_pair(stride), _pair(padding), _pair(dilation), groups)
    ours = _our_gradients(input, weight, bias, options, half=autocasts)
    if not (ours.of_input or ours.of_weight or ours.of_bias):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if autocasts:
        # autocast does not reach into an autograd function
        dtype = torch.get_autocast_dtype("cpu")
        input = input.to(dtype)
        weight = weight.to(dtype)
        if bias is not None:
            bias = bias.to(dtype)
    output: Tensor = _Convolution.apply(input, weight, bias, options, ours)
    return output


def _pair(value: int | _Size) -> _Size:
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def _our_gradients(
    input: Tensor, weight: Tensor, bias: Tensor | None, options: _Options, *, half: bool
) -> _Gradients:
    """The gradients for which our ways were measured to be faster.

    half: whether the convolution runs in half precision, where more of the library is slow.
    """
    is_depthwise = options.groups > 1 and options.groups == input.shape[1] == len(weight)
    bias_trains = bias is not None and bias.requires_grad
    if not is_depthwise:
        # in half precision the library has the bias's gradient from that of the weights
        return _Gradients(of_input=False, of_weight=False, of_bias=bias_trains and not half)
    is_dense = options.stride == (1, 1)
    kernel = weight.shape[2:]
    reach = _reach(kernel, options.dilation)
    # a larger padding would need a negative one in the convolution that gives the gradient
    is_padding_small = options.padding[0] <= reach[0] and options.padding[1] <= reach[1]
    of_input = is_padding_small and (is_dense or half)
    is_fast = half or (is_dense and options.dilation == (1, 1))
    of_weight = weight.requires_grad and is_fast and max(kernel) >= SMALLEST_KERNEL
    # for the gradient of a half-precision bias alone the library would compute the weights', too
    of_bias = bias_trains and (of_weight or not half)
    return _Gradients(of_input, of_weight, of_bias)


def _reach(kernel: torch.Size, dilation: _Size) -> _Size:
    """How many pixels lie between the first and the last that a kernel sees, down and across."""
    return dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)


class _Convolution(torch.autograd.Function):
    """A convolution some of whose gradients are ours.

    input [B, C, H, W], weight [D, C / groups, K, L], bias [D] or None. Our gradients of input and
    weight are for depthwise convolutions only: C = D = groups.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: _Options,
        ours: _Gradients,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        ctx.ours = ours
        return torch.conv2d(
            input, weight, bias, options.stride, options.padding, options.dilation, options.groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        options: _Options = ctx.options
        ours: _Gradients = ctx.ours
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        of_library = [
            needs_input and not ours.of_input,
            needs_weight and not ours.of_weight,
            needs_bias and not ours.of_bias,
        ]
        of_input, of_weight, of_bias = None, None, None
        if any(of_library):
            bias_size, transposed, output_padding = [len(weight)], False, (0, 0)
            of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
                gradient, input, weight, bias_size, options.stride, options.padding,
                options.dilation, transposed, output_padding, options.groups, of_library,
            )  # fmt: skip
        if needs_input and ours.of_input:
            of_input = _gradient_of_input(input, weight, gradient, options)
        if needs_weight and ours.of_weight:
            of_weight = _gradient_of_weight(input, weight, gradient, options)
        if needs_bias and ours.of_bias:
            of_bias = gradient.sum((0, 2, 3))
        return of_input, of_weight, of_bias, None, None


def _gradient_of_input(
    input: Tensor, weight: Tensor, gradient: Tensor, options: _Options
) -> Tensor:
    """Gradient of a depthwise convolution's input [B, C, H, W].

    It is the convolution, with stride 1, of the output's gradient with the kernel turned by 180
    degrees. Where the stride left out pixels, the output's gradient gets zeros in their place.
    """
    reach = _reach(weight.shape[2:], options.dilation)
    padding = reach[0] - options.padding[0], reach[1] - options.padding[1]
    if options.stride != (1, 1):
        height = input.shape[2] + 2 * options.padding[0] - reach[0]
        width = input.shape[3] + 2 * options.padding[1] - reach[1]
        gradient = _with_zeros_between(gradient, (height, width), options.stride)
    kernel = weight.flip(2, 3)
    return torch.conv2d(gradient, kernel, None, 1, padding, options.dilation, options.groups)


def _with_zeros_between(gradient: Tensor, size: _Size, stride: _Size) -> Tensor:
    """The gradient [B, C, ...] at every stride-th pixel of an image of that size, else zeros."""
    spread = torch.empty(
        (*gradient.shape[:2], *size), dtype=gradient.dtype, memory_format=torch.channels_last
    ).zero_()
    down, across = stride
    spread[:, :, ::down, ::across] = gradient
    return spread


def _gradient_of_weight(
    input: Tensor, weight: Tensor, gradient: Tensor, options: _Options
) -> Tensor:
    """Gradient of a depthwise convolution's weight [C, 1, K, L].

    It is the convolution of the input with the output's gradient as the kernel, where stride and
    dilation have changed places. Each channel of each image has a kernel of its own, so all are
    laid out as the channels of a single image; the gradients of the images are then summed.
    """
    batch_size, channels = input.shape[:2]
    count = batch_size * channels
    images = input.contiguous().view(1, count, *input.shape[2:])
    kernels = gradient.contiguous().view(count, 1, *gradient.shape[2:])
    stride, dilation = options.dilation, options.stride
    by_image = torch.conv2d(images, kernels, None, stride, options.padding, dilation, count)
    # where the stride left out the last pixels, there are more offsets than the kernel has
    height, width = weight.shape[2:]
    by_image = by_image[:, :, :height, :width].reshape(batch_size, channels, height, width)
    return by_image.sum(0).unsqueeze(1)
