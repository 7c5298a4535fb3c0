"""Lists the backbones there are, by pattern, with their sizes."""

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

# functions of torch that give initial values to weights
_FILLING_FUNCTIONS = frozenset(
    {"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_", "div_", "sub_"}
)


class BackboneInfo(NamedTuple):
    """What is known of a backbone without its weights.

    parameters: their number without a classifier, None if it is not known. image_size: side of the
    images it was trained with, in pixels. pretrained: whether there are pretrained weights.
    """

    name: str
    parameters: int | None
    image_size: int
    pretrained: bool


class _WithoutInitialValues(TorchFunctionMode):
    """Skips the functions that fill new weights with initial values.

    They take four fifths of the time to build a model on the meta device, which has no memory to
    put the values in.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills_a_tensor = getattr(func, "__name__", "") in _FILLING_FUNCTIONS
        if args and fills_a_tensor:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside this context have shapes, but no memory and no values."""
    with torch.device("meta"), _WithoutInitialValues():
        yield


def backbone_names(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that match a shell pattern, or contain a plain word; torchvision's come last.

    pretrained: only those with weights; timm's with their tags ("resnet18.a1_in1k").

    >>> backbone_names("test_resnet")
    ['test_resnet']
    """
    names = timm.list_models(pretrained=pretrained)
    for name in torchvision.models.list_models(module=torchvision.models):
        full_name = torchvision_backbones.PREFIX + name
        if not pretrained or torchvision_backbones.has_weights(full_name):
            names.append(full_name)
    is_plain_word = not any(sign in pattern for sign in "*?[")
    if is_plain_word:
        pattern = f"*{pattern}*"
    return fnmatch.filter(names, pattern)


def describe(name: str, *, count: bool = True) -> BackboneInfo:
    """What is known of a backbone without its weights.

    count: whether to count the parameters, too, which takes a tenth of a second for each backbone.
    Raises ValueError for an unknown name.
    """
    check_name(name)
    if torchvision_backbones.is_from_torchvision(name):
        is_pretrained = torchvision_backbones.has_weights(name)
    else:
        is_pretrained = timm.models.get_pretrained_cfg(name) is not None
    parameters = parameters_of(name) if count else None
    return BackboneInfo(name, parameters, input_size_of(name), is_pretrained)


def parameters_of(name: str) -> int | None:
    """Number of parameters without the classifier.

    It is None for a model that computes with its weights while it is built: there are none here.
    """
    try:
        with without_weights():
            if torchvision_backbones.is_from_torchvision(name):
                size = input_size_of(name)
                model = torchvision_backbones.create(name, image_size=size, pretrained=False)
            else:
                model = timm.create_model(name, num_classes=0)
    except (RuntimeError, NotImplementedError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())
