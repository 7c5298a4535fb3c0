"""Grad-CAM for convolutional and transformer backbones; captum computes it.

Source: Selvaraju et al., "Grad-CAM" (2017).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from finetune import arguments, turns
from finetune.inference.features import backbone_of
from finetune.models.backbone_set import members_of
from finetune.tasks.checks import dtype_and_shape
from finetune.wording import did_you_mean

Scores: TypeAlias = Callable[[Any], Tensor]
"""Outputs of a model -> a score for each class or target, [B, C]: `Task.class_scores`."""

LayoutKind: TypeAlias = Literal["first", "last", "tokens"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the output of a layer is a map of the image.

    kind: "first": [B, C, H, W]; "last": [B, H, W, C]; "tokens": [B, prefix + H * W, C], a token for
    each place after `prefix` others, such as the class token. aspect: height of the image by its
    width, which tells the rows of the places apart.
    """

    kind: LayoutKind
    prefix: int = 0
    aspect: float = 1.0

    def to_map(self, output: Tensor) -> Tensor:
        """[B, C, H, W]."""
        if self.kind == "first":
            return output
        if self.kind == "last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :].transpose(1, 2)
        grid = _grid_of(tokens.shape[2], self.aspect)
        assert grid is not None  # or this would not be the layout
        return tokens.reshape(*tokens.shape[:2], *grid)

    def from_map(self, values: Tensor, output: Tensor) -> Tensor:
        """What the next layer gets; output: the layer's own, for what is not in the map."""
        if self.kind == "first":
            return values
        if self.kind == "last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], values.flatten(2).transpose(1, 2)], dim=1)


def layout_of(output: Any, prefix: int | None, aspect: float = 1.0) -> Layout | None:
    """The layout of a layer's output; None for what is no map of the image.

    prefix: how many tokens stand in front of those of the image; None where it is not known.
    aspect: height of the image by its width.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 4:
        return _layout_of_map(output.shape, aspect)
    if output.ndim == 3:
        return _layout_of_tokens(output.shape[1], prefix, aspect)
    return None


def _layout_of_map(shape: torch.Size, aspect: float) -> Layout | None:
    """Where the channels are, told by the two sides that have the shape of the image."""
    _, second, third, fourth = shape
    if _is_map(third, fourth, aspect):
        return Layout("first", aspect=aspect)
    if _is_map(second, third, aspect):
        return Layout("last", aspect=aspect)
    return None


def _layout_of_tokens(count: int, prefix: int | None, aspect: float) -> Layout | None:
    """The layout of this many tokens, if those behind the prefix are the places of the image.

    Where the prefix is not known, it is the shortest that leaves such places.
    """
    prefixes = range(count) if prefix is None else [prefix]
    for number in prefixes:
        if _grid_of(count - number, aspect) is not None:
            return Layout("tokens", number, aspect)
    return None


def _grid_of(places: int, aspect: float) -> tuple[int, int] | None:
    """Rows and columns of so many places in an image of this aspect; None if they don't fill it."""
    if places < 1:
        return None
    columns = max(1, round(math.sqrt(places / aspect)))
    rows = places // columns
    if rows * columns != places or not _is_map(rows, columns, aspect):
        return None
    return rows, columns


def _is_map(rows: int, columns: int, aspect: float) -> bool:
    """Whether they are more than one place, in the shape of the image; each may be rounded."""
    return rows * columns > 1 and abs(rows - columns * aspect) < max(1.0, aspect)


def _aspect_of(inputs: Tensor) -> float:
    height, width = inputs.shape[-2:]
    return height / width


class _SeenLayer(NamedTuple):
    path: str
    module: nn.Module
    output: Tensor


def find_layers(
    model: nn.Module, backbone: nn.Module, inputs: Tensor, target: int, scores: Scores
) -> list[str]:
    """Paths of the layers as of `find_layer`: one, or one for each backbone of a set that has one.

    Raises ValueError where there is none.
    """
    layers = []
    reasons = []
    for member in members_of(backbone).values():
        try:
            layers.append(find_layer(model, member, inputs, target, scores))
        except ValueError as reason:
            reasons.append(reason)
    if not layers:
        raise reasons[0]
    return layers


def find_layer(
    model: nn.Module, backbone: nn.Module, inputs: Tensor, target: int, scores: Scores
) -> str:
    """Path of the last layer whose map the target's score still depends on, place by place.

    In a transformer that is a norm: after the last attention only the class token counts.
    inputs: [1, 3, H, W], which need a gradient. Raises ValueError where there is no such layer.
    """
    prefix = getattr(backbone, "num_prefix_tokens", None)
    candidates, score = _run_and_watch(model, backbone, inputs, target, scores, prefix)
    outputs = [layer.output for layer in candidates]
    gradients: tuple[Tensor | None, ...] = ()
    if outputs:
        gradients = torch.autograd.grad(score, outputs, allow_unused=True)
    for layer, gradient in reversed(list(zip(candidates, gradients, strict=True))):
        layout = layout_of(layer.output, prefix, _aspect_of(inputs))
        if gradient is not None and layout is not None and layout.to_map(gradient).any():
            return layer.path
    raise ValueError(
        f"{type(backbone).__name__} has no layer whose outputs form a map of the image; name one "
        "with layer="
    )


def _run_and_watch(
    model: nn.Module,
    backbone: nn.Module,
    inputs: Tensor,
    target: int,
    scores: Scores,
    prefix: int | None,
) -> tuple[list[_SeenLayer], Tensor]:
    """The layers of the backbone that give a map, in the order of their calls; the score."""
    in_backbone = set(backbone.modules())
    path_of: dict[nn.Module, str] = {}
    for path, module in model.named_modules():
        if module in in_backbone and not isinstance(module, nn.Identity):
            path_of[module] = path
    seen: list[_SeenLayer] = []

    def watch(module: nn.Module, arguments: Any, output: Any) -> None:
        is_map = layout_of(output, prefix, _aspect_of(inputs)) is not None
        if not is_map or not output.requires_grad:
            return
        is_whole_image = len(output) == len(inputs)  # and no windows of it
        if is_whole_image and _may_be_the_map(path_of[module], module, output):
            seen.append(_SeenLayer(path_of[module], module, output))

    hooks = [module.register_forward_hook(watch) for module in path_of]
    try:
        score = scores(model(inputs))[0, target]
    finally:
        for hook in hooks:
            hook.remove()
    return seen, score


def _may_be_the_map(path: str, module: nn.Module, output: Tensor) -> bool:
    if output.ndim == 3:
        return "norm" in type(module).__name__.lower()
    # tables of attention are square, too
    return "attn" not in path and "attention" not in path


def grad_cam_of_layers(
    model: nn.Module, inputs: Tensor, target: int, scores: Scores, layer: str | None
) -> tuple[Tensor, list[str]]:
    """Where in an image a class was seen, [H, W] in [0, 1], and the layers that show it.

    layer: the path of one; None finds them. inputs: [1, C, H, W].
    """
    with turns.shared(), torch.enable_grad():
        if layer is not None:
            layers = [arguments.text("layer", layer)]
        else:
            backbone = backbone_of(model, ", or pass layer=, the path of a module")
            tracked_inputs = inputs.clone().requires_grad_()
            layers = find_layers(model, backbone, tracked_inputs, target, scores)
        return mean_grad_cam(model, layers, inputs, target, scores), layers


def mean_grad_cam(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, target: int, scores: Scores
) -> Tensor:
    """The mean of the maps of several layers as of `grad_cam`, in [0, 1] again."""
    maps = []
    for layer in layers:
        maps.append(grad_cam(model, layer, inputs.detach().clone(), target, scores))
    return _up_to_one(torch.stack(maps).mean(dim=0))


def grad_cam(model: nn.Module, layer: str, inputs: Tensor, target: int, scores: Scores) -> Tensor:
    """[H, W] in [0, 1], in the size of the image; inputs: [1, 3, H, W].

    Raises ModuleNotFoundError without captum, ValueError for a layer that gives no map.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise ModuleNotFoundError(
            "activation maps need captum; run pip install 'finetune-vision[explain]'"
        ) from None
    modules = {path: module for path, module in model.named_modules() if path}
    if layer not in modules:
        hint = did_you_mean(layer, modules, count=3)
        raise ValueError(f"the model has no layer {layer!r}; {hint}")
    prefix = _prefix_tokens(model, modules[layer])
    with _map_probe(modules[layer], layer, prefix, _aspect_of(inputs)) as probe:
        coarse = LayerGradCam(lambda images: scores(model(images)), probe).attribute(
            inputs.requires_grad_(), target=target, relu_attributions=True
        )
    image_size = inputs.shape[-2:]
    values = nn.functional.interpolate(coarse.detach().float(), image_size, mode="bilinear")[0, 0]
    return _up_to_one(values).cpu()


def _up_to_one(values: Tensor) -> Tensor:
    """The values, of which the highest becomes 1 if it is positive."""
    highest = values.max()
    if highest > 0:
        values = values / highest
    return values.clamp(0, 1)


def _prefix_tokens(model: nn.Module, layer: nn.Module) -> int | None:
    """How many tokens stand in front of those of the image in a layer; None if it is not known."""
    backbone = dict(model.named_children()).get("backbone", model)
    for member in members_of(backbone).values():
        if layer in set(member.modules()):
            return getattr(member, "num_prefix_tokens", None)
    return None


@contextmanager
def _map_probe(
    module: nn.Module, name: str, prefix: int | None, aspect: float
) -> Iterator[nn.Module]:
    """A module that gets the layer's output as a map [B, C, H, W], for captum to look at."""
    probe = nn.Identity()

    def go_through_probe(module: nn.Module, arguments: Any, output: Any) -> Any:
        layout = layout_of(output, prefix, aspect)
        if layout is None:
            shape = list(output.shape) if isinstance(output, Tensor) else dtype_and_shape(output)
            raise ValueError(f"layer {name!r} gives {shape}, which is no map of the image")
        # cloned, since the next layer may work in place
        return layout.from_map(probe(layout.to_map(output)).clone(), output)

    hook = module.register_forward_hook(go_through_probe)
    try:
        yield probe
    finally:
        hook.remove()
