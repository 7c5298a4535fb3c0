"""Convolutions: the library's numbers to rounding, and its way where ours gains nothing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.training import convolutions
from finetune.training.convolutions import Convolutions


def gradients(conv: nn.Conv2d, inputs: torch.Tensor, *, ours: bool) -> list[torch.Tensor]:
    """Output, and the gradients of input, weight and bias."""
    x = inputs.clone().requires_grad_()
    conv.zero_grad()
    if ours:
        with Convolutions():
            output = conv(x)
    else:
        output = conv(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in conv.parameters())]


@pytest.mark.parametrize("kernel", [3, 5, (5, 7), 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 2, (2, 3), "valid"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_the_librarys(kernel, stride, dilation, padding, bias, layout):
    torch.manual_seed(0)
    conv = nn.Conv2d(
        6, 6, kernel, stride, padding, dilation, groups=6, bias=bias
    ).to(memory_format=layout)  # fmt: skip
    inputs = torch.randn(3, 6, 14, 15).contiguous(memory_format=layout)
    for own, theirs in zip(
        gradients(conv, inputs, ours=True), gradients(conv, inputs, ours=False), strict=True
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A row for each convolution that takes our way from now on: for the weights as well?"""
    rows: list[bool] = []
    forward = convolutions._Convolution.forward

    def recording(ctx, *arguments):
        rows.append(arguments[-1])
        return forward(ctx, *arguments)

    monkeypatch.setattr(convolutions._Convolution, "forward", staticmethod(recording))
    return rows


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"kernel_size": 5, "groups": 4}, [True]),
        ({"kernel_size": 5, "groups": 4, "bias": False}, [True]),
        ({"kernel_size": 3, "groups": 4}, [False]),
        ({"kernel_size": 3, "groups": 4, "bias": False}, []),
        ({"kernel_size": 5, "groups": 2, "bias": False}, []),
        ({"kernel_size": 5, "groups": 4, "stride": 2, "bias": False}, []),
        ({"kernel_size": 5, "groups": 4, "dtype": torch.float64}, []),
    ],
)
def test_biases_and_large_depthwise_kernels_take_our_way(monkeypatch, options: dict, own: list):
    rows = taken(monkeypatch)
    conv = nn.Conv2d(4, 4, **options)
    with Convolutions():
        conv(torch.ones(1, 4, 9, 9, dtype=conv.weight.dtype))
    assert rows == own


def test_without_gradients_the_librarys_way_is_taken(monkeypatch):
    rows = taken(monkeypatch)
    conv = nn.Conv2d(4, 4, 5, groups=4)
    with Convolutions(), torch.no_grad():
        conv(torch.ones(1, 4, 9, 9))
    assert not rows


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_passes_one_on(frozen: str):
    conv = nn.Conv2d(4, 4, 5, groups=4)
    getattr(conv, frozen).requires_grad_(False)
    x = torch.ones(1, 4, 9, 9, requires_grad=True)
    with Convolutions():
        conv(x).sum().backward()
    assert getattr(conv, frozen).grad is None
    assert x.grad is not None


@pytest.mark.parametrize(("channels", "groups", "own"), [(3, 3, True), (4, 2, False)])
def test_the_gradient_passes_torchs_own_check(channels: int, groups: int, own: bool):
    torch.manual_seed(0)
    shapes = ((2, channels, 6, 5), (channels, channels // groups, 5, 5), (channels,))
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    rest = ((1, 1), (2, 2), (1, 1), groups, own)
    assert torch.autograd.gradcheck(
        lambda x, w, b: convolutions._Convolution.apply(x, w, b, *rest), (x, w, b)
    )


def test_under_autocast_depthwise_ones_compute_in_float32_and_give_the_autocast_type():
    torch.manual_seed(0)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(4, 1, 3, 3)
    exact = F.conv2d(x, w, groups=4)
    with torch.autocast("cpu", torch.bfloat16), Convolutions():
        output = F.conv2d(x, w, groups=4)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, exact.to(torch.bfloat16))


def test_under_autocast_others_are_the_librarys():
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = conv(x)
        with Convolutions():
            assert torch.equal(conv(x), theirs)


def test_other_functions_are_as_they_were():
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 8, 8)
    with Convolutions():
        inside = conv(x).relu()
    assert torch.equal(inside, conv(x).relu())
