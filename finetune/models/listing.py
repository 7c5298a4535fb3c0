"""The backbones there are, by pattern, with size and what they were trained with."""

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch.overrides import TorchFunctionMode

from finetune.models import torchvision_backbones
from finetune.models.backbones import check_name, input_size_of

_FILLING = frozenset(
    {"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_", "div_", "sub_"}
)


class BackboneInfo(NamedTuple):
    """parameters: without a classifier. image_size: pixels. pretrained: there are weights."""

    name: str
    parameters: int | None
    image_size: int
    pretrained: bool


class _Unfilled(TorchFunctionMode):
    """Initial values cost four fifths of building a model that has no memory to put them in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and getattr(func, "__name__", "") in _FILLING:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside have shapes, but no memory and no values."""
    with torch.device("meta"), _Unfilled():
        yield


def backbone_names(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that match a shell pattern, or contain a plain word; torchvision's come last.

    pretrained: those with weights, by their tags ("resnet18.a1_in1k").

    >>> backbone_names("test_resnet")
    ['test_resnet']
    """
    known = timm.list_models(pretrained=pretrained)
    own = torchvision.models.list_models(module=torchvision.models)
    known += [f"{torchvision_backbones.PREFIX}{name}" for name in own]
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return fnmatch.filter(known, wanted)


def describe(name: str, *, count: bool = True) -> BackboneInfo:
    """What is known without weights. count: the parameters, too; a tenth of a second for each.

    Raises ValueError for an unknown name.
    """
    check_name(name)
    in_timm = not name.startswith(torchvision_backbones.PREFIX)
    pretrained = not in_timm or timm.models.get_pretrained_cfg(name) is not None
    parameters = parameters_of(name) if count else None
    return BackboneInfo(name, parameters, input_size_of(name), pretrained)


def parameters_of(name: str) -> int | None:
    """Number of parameters without the classifier; None where a model can't be built unseen."""
    try:
        with without_weights():
            if name.startswith(torchvision_backbones.PREFIX):
                size = input_size_of(name)
                model = torchvision_backbones.create(name, image_size=size, pretrained=False)
            else:
                model = timm.create_model(name, num_classes=0)
    except (RuntimeError, NotImplementedError):  # it computes with its weights while it is built
        return None
    return sum(parameter.numel() for parameter in model.parameters())
