"""torchvision's classification models as backbones: "torchvision/resnet50"."""

from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from finetune.models.classifier_layers import classifier_layers
from finetune.randomness import isolated
from finetune.wording import did_you_mean

PREFIX = "torchvision/"
_BUILT_FOR_ONE_SIZE = ("vit_", "maxvit")
# what weights were trained with, and what random weights must be loaded into later
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": True},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": True},
}
_CONVERTING = "mnasnet"
_AUXILIARY = ("aux1", "aux2", "AuxLogits")


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, for a model that torchvision does not have."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name.removeprefix(PREFIX) not in names:
        hint = did_you_mean(name, [PREFIX + known for known in names], count=3)
        raise ValueError(f"there is no classification model {name!r}; {hint}")


def create(name: str, *, image_size: int, pretrained: bool) -> nn.Module:
    """The model without the layer that gives the classes; what pools in front of it stays.

    Its `pretrained_cfg` says how images are normalised, as timm's does. Raises ValueError for a
    size that the model can't take, OSError where the weights can't be downloaded.
    """
    own, native = name.removeprefix(PREFIX), input_size(name)
    if own.startswith(_BUILT_FOR_ONE_SIZE) and image_size != native:
        raise ValueError(
            f"{name!r} takes images of {native} pixels only, got image_size={image_size}; "
            f"timm's models of this kind take others"
        )
    options = {"weights": "DEFAULT"} if pretrained else {"weights": None, **_OPTIONS.get(own, {})}
    model: nn.Module = torchvision.models.get_model(own, **options)
    for part in _AUXILIARY:  # further classifiers, for training from scratch
        if getattr(model, part, None) is not None:
            setattr(model, part, None)
            model.aux_logits = False  # type: ignore[assignment]
    if own.startswith(
        _CONVERTING
    ):  # its way converts old files, told by what safetensors leaves out
        loads = partial(nn.Module._load_from_state_dict, model)
        model._load_from_state_dict = loads  # type: ignore[method-assign]
    for path in _classifier_paths(model):
        model.set_submodule(path, nn.Identity())
    transforms = _transforms(name)
    cfg = {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}
    model.pretrained_cfg = cfg  # type: ignore[assignment]
    return model


def _classifier_paths(model: nn.Module) -> list[str]:
    layers = set(map(id, classifier_layers(model)))
    return [path for path, module in model.named_modules() if id(module) in layers]


def source_of(name: str) -> str:
    """Python that makes `backbone`, without weights, from torchvision's own parts."""
    own = name.removeprefix(PREFIX)
    given = _OPTIONS.get(own, {})
    # only to see the names of its layers; a RegNet computes their widths with tensors
    regnet = own.startswith("regnet")
    with isolated(), torch.device("cpu" if regnet else "meta"):
        model = torchvision.models.get_model(own, weights=None, **given)
    options = "".join(f", {key}={value!r}" for key, value in given.items())
    lines = [
        "import torchvision",
        "from torch import nn",
        "",
        f'backbone = torchvision.models.get_model("{own}", weights=None{options})',
        *(f'backbone.set_submodule("{p}", nn.Identity())' for p in _classifier_paths(model)),
    ]
    if own.startswith(_CONVERTING):
        lines.insert(0, "from functools import partial")
        lines.append(
            "backbone._load_from_state_dict = partial(nn.Module._load_from_state_dict, backbone)"
        )
    return "\n".join(lines)


def input_size(name: str) -> int:
    """Side of the images that the model was trained with, in pixels."""
    return int(_transforms(name).crop_size[0])


def _transforms(name: str) -> Any:
    return torchvision.models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT.transforms()
