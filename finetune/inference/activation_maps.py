"""Grad-CAM for convolutional and transformer backbones; captum computes it.

Source: Selvaraju et al., "Grad-CAM" (2017).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class Layout:
    """How the output of a layer is a map: channels first, channels last, or a row of tokens after
    `prefix` others."""

    kind: str
    prefix: int = 0

    def to_map(self, output: Tensor) -> Tensor:
        """[B, C, H, W]."""
        if self.kind == "first":
            return output
        if self.kind == "last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :].transpose(1, 2)
        side = math.isqrt(tokens.shape[2])
        return tokens.reshape(*tokens.shape[:2], side, side)

    def from_map(self, values: Tensor, output: Tensor) -> Tensor:
        """What the next layer gets; output: the layer's own, for what is not in the map."""
        if self.kind == "first":
            return values
        if self.kind == "last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], values.flatten(2).transpose(1, 2)], dim=1)


def layout_of(output: Any, prefix: int | None) -> Layout | None:
    """None for what is no map of a square image. prefix: tokens in front, None: not known."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 4:
        _, a, b, c = output.shape
        if b == c and b > 1:
            return Layout("first")
        return Layout("last") if a == b and a > 1 else None
    if output.ndim != 3:
        return None
    count = output.shape[1]
    own = count - math.isqrt(count) ** 2 if prefix is None else prefix
    patches = count - own
    return Layout("tokens", own) if patches > 1 and math.isqrt(patches) ** 2 == patches else None


def find_layer(model: nn.Module, backbone: nn.Module, inputs: Tensor, target: int) -> str:
    """Path of the last layer whose map the score of the target still depends on, by place.

    Of transformers it is a norm: after the last attention only the class token counts. Raises
    ValueError where there is none.
    """
    prefix = getattr(backbone, "num_prefix_tokens", None)
    seen: list[tuple[str, nn.Module, Tensor]] = []
    named = [(name, m) for name, m in model.named_modules() if name.startswith("backbone")]
    names = {m: name for name, m in named if not isinstance(m, nn.Identity)}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        is_map = layout_of(output, prefix) is not None and output.requires_grad
        if is_map and len(output) == len(inputs):  # not windows
            seen.append((names[module], module, output))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        score = model(inputs)[0, target]
    finally:
        for hook in hooks:
            hook.remove()
    possible = [own for own in seen if _may_be(own[0], own[1], own[2])]
    outputs = [output for *_, output in possible]
    gradients = torch.autograd.grad(score, outputs, allow_unused=True) if outputs else ()
    for (name, _, output), gradient in reversed(list(zip(possible, gradients, strict=True))):
        layout = layout_of(output, prefix)
        if gradient is not None and layout is not None and layout.to_map(gradient).any():
            return name
    raise ValueError(
        f"{type(backbone).__name__} has no layer whose outputs form a map of the image; name one "
        "with layer="
    )


def _may_be(name: str, module: nn.Module, output: Tensor) -> bool:
    if output.ndim == 3:
        return "norm" in type(module).__name__.lower()
    # tables of attention are square, too
    return "attn" not in name and "attention" not in name


def grad_cam(model: nn.Module, layer: str, inputs: Tensor, target: int) -> Tensor:
    """[H, W] in [0, 1], in the size of the image; inputs: [1, 3, H, W].

    Raises ModuleNotFoundError without captum, ValueError for a layer that gives no map.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise ModuleNotFoundError(
            "activation maps need captum; run pip install 'finetune-vision[explain]'"
        ) from None
    module = dict(model.named_modules()).get(layer)
    if module is None or not layer:
        hint = did_you_mean(layer, [n for n, _ in model.named_modules() if n], count=3)
        raise ValueError(f"the model has no layer {layer!r}; {hint}")
    backbone = dict(model.named_children()).get("backbone", model)
    prefix = getattr(backbone, "num_prefix_tokens", None)
    with _probed(module, layer, prefix) as probe:
        cam = LayerGradCam(model, probe).attribute(
            inputs.requires_grad_(), target=target, relu_attributions=True
        )
    size = inputs.shape[-2:]
    values = nn.functional.interpolate(cam.detach().float(), size, mode="bilinear")[0, 0]
    most = values.max()
    return (values / most if most > 0 else values).clamp(0, 1).cpu()


@contextmanager
def _probed(module: nn.Module, name: str, prefix: int | None) -> Iterator[nn.Module]:
    """A module that gets the layer's output as a map [B, C, H, W], for captum to look at."""
    probe = nn.Identity()

    def through(module: nn.Module, args: Any, output: Any) -> Any:
        layout = layout_of(output, prefix)
        if layout is None:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layer {name!r} gives {shape}, which is no map of a square image")
        # cloned, since the next layer may work in place
        return layout.from_map(probe(layout.to_map(output)).clone(), output)

    hook = module.register_forward_hook(through)
    try:
        yield probe
    finally:
        hook.remove()
