"""A BatchNorm in eval mode is a scale and a shift: it is folded into the convolution before it.

    norm(conv(x, W)) = conv(x, s W) + (beta - mean s),   s = gamma / sqrt(var + eps)

That is exact, and differentiable in W, gamma and beta. The layer neither passes over its input nor
keeps it for the backward pass, which is nearly half of what a network like EfficientNet keeps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedNorms:
    """The convolutions and norms of a model that run as one while `active`.

    Weights and buffers stay where they are, under their names; only what the layers see differs.
    """

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]]) -> None:
        self.pairs = pairs

    @classmethod
    def find(cls, model: nn.Module, inputs: Tensor) -> "FoldedNorms":
        """Pairs of a convolution that trains and a norm in eval mode that alone gets its output.

        inputs: a few pictures, to see which layer feeds which, and that the outputs stay the same:
        if they don't, nothing is folded. Modes, weights and buffers are left as they were.
        """
        norms = [m for m in model.modules() if type(m) in _NORMS and not m.training]
        norms = [norm for norm in norms if norm.running_mean is not None]
        # what checkpointing computes again in the backward pass is not in our hands
        again = any(getattr(module, "grad_checkpointing", False) for module in model.modules())
        if again or not norms:
            return cls([])
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                expected, pairs = _watch(model, inputs, set(norms))
                folded = cls(pairs)
                with folded.active():
                    found = model(inputs)
        finally:
            for module, mode in modes.items():
                module.training = mode
        return folded if _same(expected, found) else cls([])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put it around a forward pass in which the norms are in eval mode."""
        try:
            for conv, norm in self.pairs:
                # an instance's own attributes come before its registered parameters
                weight, bias = _folded(conv, norm)
                conv.__dict__.update(weight=weight, bias=bias)
                norm.__dict__["forward"] = _Activation(norm)
            yield
        finally:
            for conv, norm in self.pairs:
                conv.__dict__.pop("weight", None)
                conv.__dict__.pop("bias", None)
                norm.__dict__.pop("forward", None)


class _Activation:
    """What is left of a norm: timm's have dropout and an activation built in."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm if isinstance(norm, BatchNormAct2d) else None

    def __call__(self, x: Tensor) -> Any:
        return x if self.norm is None else self.norm.act(self.norm.drop(x))


def _folded(conv: nn.Module, norm: Any) -> tuple[Tensor, Tensor]:
    weight, bias = conv._parameters["weight"], conv._parameters["bias"]
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    assert weight is not None
    return weight * scale.view(-1, 1, 1, 1), shift if norm.bias is None else shift + norm.bias


def _watch(
    model: nn.Module, inputs: Tensor, norms: set[nn.Module]
) -> tuple[Any, list[tuple[nn.Module, nn.Module]]]:
    """The model's outputs, and which norm got which convolution's output, both called once."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # held, so that no other gets its id
    pairs: list[tuple[nn.Module, nn.Module]] = []
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        source = outputs.get(id(args[0])) if args and module in norms else None
        if source is not None:
            pairs.append((source[0], module))

    def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        outputs[id(output)] = (module, output)

    free = [m for m in model.modules() if _is_free(m)]
    # a frozen one keeps nothing for the backward pass, so there is nothing to gain
    convolutions = [m for m in free if type(m) in _CONVOLUTIONS and _trains(m)]
    hooks = [m.register_forward_hook(note) for m in convolutions]
    hooks += [m.register_forward_pre_hook(count) for m in free]
    try:
        result = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return result, [(c, n) for c, n in pairs if calls[c] == calls[n] == 1]


def _trains(conv: nn.Module) -> bool:
    weight = conv._parameters.get("weight")  # a parametrised one has none under this name
    return weight is not None and weight.requires_grad


def _is_free(module: nn.Module) -> bool:
    """Nobody listens to what goes in and out."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return not any(hooks) and not module._backward_pre_hooks and "forward" not in vars(module)


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= 1e-3 * a.abs().max())
