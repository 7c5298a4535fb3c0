"""Makes the head of a model one linear layer with given weights."""

import torch
from torch import Tensor, nn

from finetune.distributed.sharding import is_sharded, sharded_like
from finetune.models.classifier import ImageClassifier
from finetune.models.heads import TargetScale

HEAD = "head"


def head_of(model: nn.Module) -> nn.Module:
    """The submodule "head". Raises ValueError for a model that has none under this name."""
    head = dict(model.named_children()).get(HEAD)
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no submodule {HEAD!r} for a probe to replace; name it "
            "so: nn.Sequential(OrderedDict(backbone=..., head=...))"
        )
    return head


def check_can_be_linear(model: nn.Module, shape: torch.Size) -> None:
    """Raises ValueError unless `set_linear_head` takes a weight of this shape, [C, F]."""
    head = head_of(model)
    if _only_linear_layer(head, shape) is not None:
        return
    if is_sharded(model):
        raise ValueError(
            "a probe would replace the head, and a sharded model keeps its layers; make the "
            "learner with head='linear'"
        )
    if isinstance(model, ImageClassifier):
        return
    outputs, features = shape
    raise ValueError(
        "a probe replaces the head of a model that vision_learner made; in a model of your own the "
        f"head must have its weights in one layer nn.Linear({features}, {outputs})"
    )


def linear_head(model: nn.Module, shape: torch.Size) -> nn.Linear | None:
    """The one layer of the submodule "head" that has weights, [C, F]; None if it is no such."""
    head = dict(model.named_children()).get(HEAD)
    return None if head is None else _only_linear_layer(head, shape)


@torch.no_grad()
def set_linear_head(model: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Makes the head the layer `features @ weight.T + bias`.

    A head whose weights are those of one such layer gets these, with its dropout as it is; another
    one, of an `ImageClassifier`, is replaced by one without dropout. A `TargetScale` at its end
    stays, and the weights are divided by it. weight: [C, F]. bias: [C].
    """
    head = head_of(model)
    linear = _only_linear_layer(head, weight.shape)
    if linear is None:
        assert isinstance(model, ImageClassifier)  # see `check_can_be_linear`
        device = next(head.parameters()).device
        linear = nn.Linear(weight.shape[1], weight.shape[0]).to(device)
        model.replace_head(linear)
    scale = _target_scale(head)
    if scale is not None:
        # the layer's outputs are standardised targets
        unit = scale.std.to(weight.device)
        weight = weight / unit[:, None]
        bias = (bias - scale.mean.to(bias.device)) / unit
    linear.weight.copy_(sharded_like(weight, linear.weight))
    linear.bias.copy_(sharded_like(bias, linear.bias))


def _only_linear_layer(head: nn.Module, shape: torch.Size) -> nn.Linear | None:
    """The layer of a head that has weights in one linear layer of this shape alone."""
    linear: nn.Linear | None = None
    for module in head.modules():
        if not list(module.parameters(recurse=False)):
            continue
        is_another = linear is not None
        if is_another or type(module) is not nn.Linear:
            return None
        if module.bias is None or module.weight.shape != shape:
            return None
        linear = module
    return linear


def _target_scale(head: nn.Module) -> TargetScale | None:
    for module in head.modules():
        if isinstance(module, TargetScale):
            return module
    return None
