"""Depthwise convolutions: the library's numbers to rounding, and its choice where ours is none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.training import depthwise
from finetune.training.depthwise import DepthwiseConvolutions


def gradients(conv: nn.Conv2d, inputs: torch.Tensor, *, ours: bool) -> list[torch.Tensor]:
    """Output, and the gradients of input, weight and bias."""
    x = inputs.clone().requires_grad_()
    conv.zero_grad()
    if ours:
        with DepthwiseConvolutions():
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


def taken(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The weights' shapes of the convolutions that take our way from now on."""
    shapes: list[torch.Size] = []
    forward = depthwise._Depthwise.forward

    def recording(ctx, input, weight, bias, padding):
        shapes.append(weight.shape)
        return forward(ctx, input, weight, bias, padding)

    monkeypatch.setattr(depthwise._Depthwise, "forward", staticmethod(recording))
    return shapes


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"kernel_size": 5, "groups": 4}, True),
        ({"kernel_size": 3, "groups": 4}, False),
        ({"kernel_size": 5, "groups": 2}, False),
        ({"kernel_size": 5, "groups": 4, "stride": 2}, False),
        ({"kernel_size": 5, "groups": 4, "dtype": torch.float64}, False),
    ],
)
def test_only_large_depthwise_kernels_take_our_way(monkeypatch, options: dict, own: bool):
    shapes = taken(monkeypatch)
    conv = nn.Conv2d(4, 4, **options)
    with DepthwiseConvolutions():
        conv(torch.ones(1, 4, 9, 9, dtype=conv.weight.dtype))
    assert bool(shapes) == own


def test_without_gradients_the_librarys_way_is_taken(monkeypatch):
    shapes = taken(monkeypatch)
    conv = nn.Conv2d(4, 4, 5, groups=4)
    with DepthwiseConvolutions(), torch.no_grad():
        conv(torch.ones(1, 4, 9, 9))
    assert not shapes


def test_a_frozen_weight_gets_no_gradient_and_passes_one_on():
    conv = nn.Conv2d(4, 4, 5, groups=4).requires_grad_(False)
    x = torch.ones(1, 4, 9, 9, requires_grad=True)
    with DepthwiseConvolutions():
        conv(x).sum().backward()
    assert conv.weight.grad is None
    assert x.grad is not None


def test_the_gradient_passes_torchs_own_check():
    torch.manual_seed(0)
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in
               ((2, 3, 6, 5), (3, 1, 5, 5), (3,)))  # fmt: skip
    assert torch.autograd.gradcheck(
        lambda x, w, b: depthwise._Depthwise.apply(x, w, b, (2, 2)), (x, w, b)
    )


def test_under_autocast_it_computes_in_float32_and_gives_the_autocast_type():
    torch.manual_seed(0)
    x, w = torch.randn(2, 4, 8, 8), torch.randn(4, 1, 3, 3)
    exact = F.conv2d(x, w, groups=4)
    with torch.autocast("cpu", torch.bfloat16), DepthwiseConvolutions():
        output = F.conv2d(x, w, groups=4)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, exact.to(torch.bfloat16))


def test_other_functions_are_as_they_were():
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 8, 8)
    with DepthwiseConvolutions():
        inside = conv(x).relu()
    assert torch.equal(inside, conv(x).relu())


def test_models_with_large_depthwise_kernels_are_told():
    small = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    assert depthwise.are_in(small)
    assert not depthwise.are_in(small, smallest_kernel=5)
    assert not depthwise.are_in(nn.Sequential(nn.Conv2d(4, 4, 5, groups=2)))
