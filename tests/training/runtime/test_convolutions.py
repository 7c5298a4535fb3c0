"""Convolutions: the library's numbers to rounding, and its way where ours gains nothing."""

import pytest
import torch
from torch import nn

from finetune.training.runtime import convolutions
from finetune.training.runtime.convolutions import Convolutions


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
    for ours, expected in zip(
        gradients(conv, inputs, ours=True), gradients(conv, inputs, ours=False), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def record_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A row for each convolution that takes our way from now on: for which gradients."""
    rows: list[str] = []
    forward = convolutions._Convolution.forward

    def recording(ctx, *arguments):
        ours = arguments[-1]
        letters = {"i": ours.of_input, "w": ours.of_weight, "b": ours.of_bias}
        rows.append("".join(letter for letter, is_ours in letters.items() if is_ours))
        return forward(ctx, *arguments)

    monkeypatch.setattr(convolutions._Convolution, "forward", staticmethod(recording))
    return rows


PLAIN = {"kernel_size": 5, "groups": 4, "bias": False}


@pytest.mark.parametrize(
    ("options", "in_float32", "in_bf16"),
    [
        (PLAIN | {"bias": True}, ["iwb"], ["iwb"]),
        (PLAIN | {"kernel_size": 3, "bias": True}, ["ib"], ["i"]),
        (PLAIN, ["iw"], ["iw"]),
        (PLAIN | {"kernel_size": 3}, ["i"], ["i"]),
        (PLAIN | {"stride": 2}, [], ["iw"]),
        (PLAIN | {"dilation": 2}, ["i"], ["iw"]),
        (PLAIN | {"kernel_size": 3, "stride": 2}, [], ["i"]),
        (PLAIN | {"kernel_size": 3, "padding": 3}, [], []),
        (PLAIN | {"kernel_size": 3, "padding": "valid"}, [], []),
        (PLAIN | {"groups": 2}, [], []),
        (PLAIN | {"groups": 1, "bias": True}, ["b"], []),
        (PLAIN | {"dtype": torch.float64}, [], []),
    ],
)
def test_depthwise_ones_and_biases_take_our_way(
    monkeypatch, options: dict, in_float32: list, in_bf16: list
):
    conv = nn.Conv2d(4, 4, **options)
    x = torch.ones(1, 4, 9, 9, dtype=conv.weight.dtype)
    rows = record_ways(monkeypatch)
    with Convolutions():
        conv(x)
    assert rows == in_float32
    rows.clear()
    if conv.weight.dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16), Convolutions():
            conv(x)
        assert rows == in_bf16


def test_without_gradients_the_librarys_way_is_record_ways(monkeypatch):
    rows = record_ways(monkeypatch)
    conv = nn.Conv2d(4, 4, 5, groups=4)
    with Convolutions(), torch.no_grad():
        conv(torch.ones(1, 4, 9, 9))
    assert not rows


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_under_a_frozen_weight_the_input_still_goes_our_way(monkeypatch, precision):
    """The library's way for it takes 20 times as long in bf16, where a stride leaves pixels out."""
    rows = record_ways(monkeypatch)
    conv = nn.Conv2d(4, 4, 5, groups=4, bias=False).requires_grad_(False)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32), Convolutions():
        conv(torch.ones(1, 4, 9, 9, requires_grad=True))
    assert rows == ["i"]


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_passes_one_on(frozen: str):
    conv = nn.Conv2d(4, 4, 5, groups=4)
    getattr(conv, frozen).requires_grad_(False)
    x = torch.ones(1, 4, 9, 9, requires_grad=True)
    with Convolutions():
        conv(x).sum().backward()
    assert getattr(conv, frozen).grad is None
    assert x.grad is not None


@pytest.mark.parametrize(
    ("channels", "groups", "ours"), [(3, 3, (True, True, True)), (4, 2, (False, False, True))]
)
@pytest.mark.parametrize("step", [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((2, 2), (1, 2))])
def test_the_gradient_passes_torchs_own_check(channels, groups, ours, step):
    torch.manual_seed(0)
    shapes = ((2, channels, 8, 9), (channels, channels // groups, 3, 5), (channels,))
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    stride, dilation = step
    options = convolutions._Options(stride, (2, 1), dilation, groups)
    ways = convolutions._Gradients(*ours)
    assert torch.autograd.gradcheck(
        lambda x, w, b: convolutions._Convolution.apply(x, w, b, options, ways), (x, w, b)
    )


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_the_numbers_differ_by_the_rounding_of_bf16(kernel: int, stride: int):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, 1, groups=6)
    inputs = torch.randn(3, 6, 14, 15)
    exact = gradients(conv, inputs, ours=False)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(conv, inputs, ours=True)
    assert rounded[0].dtype == torch.bfloat16
    assert [value.dtype for value in rounded[1:]] == [torch.float32] * 3
    for ours, expected in zip(rounded, exact, strict=True):
        assert (ours - expected).norm() < 0.02 * expected.norm()


def test_under_autocast_others_are_the_librarys():
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = conv(x)
        with Convolutions():
            assert torch.equal(conv(x), expected)


def test_other_functions_are_as_they_were():
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(1, 3, 8, 8)
    with Convolutions():
        inside = conv(x).relu()
    assert torch.equal(inside, conv(x).relu())


def test_float64_stays_what_it_is_under_autocast():
    conv = nn.Conv2d(4, 4, 5, groups=4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16), Convolutions():
        assert conv(torch.ones(1, 4, 9, 9, dtype=torch.float64)).dtype == torch.float64
