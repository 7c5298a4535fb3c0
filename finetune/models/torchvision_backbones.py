"""torchvision's classification models as backbones: "torchvision/resnet50"."""

from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from finetune.image_size import ImageSize
from finetune.models.classifier_layers import classifier_paths
from finetune.randomness import isolated
from finetune.wording import did_you_mean

PREFIX = "torchvision/"
_BUILT_FOR_ONE_SIZE = ("vit_", "maxvit")  # how the names of such models start
# Options of models with random weights. They make them equal to the pretrained ones, whose weights
# may be loaded into them later.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": True},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": True},
}
# MNASNet's own way to load a state dict converts the weights of an old version. It tells the
# version by metadata that safetensors files do not have, so torch's own way replaces it.
_CONVERTS_OLD_WEIGHTS = "mnasnet"
_AUXILIARY_CLASSIFIERS = ("aux1", "aux2", "AuxLogits")


def is_from_torchvision(name: str) -> bool:
    """Whether a backbone's name is one of torchvision's, or else of timm's."""
    return name.startswith(PREFIX)


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, for a model that torchvision does not have."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name.removeprefix(PREFIX) not in names:
        hint = did_you_mean(name, [PREFIX + known for known in names], count=3)
        raise ValueError(f"there is no classification model {name!r}; {hint}")


def has_weights(name: str) -> bool:
    """Whether torchvision has pretrained weights for the model."""
    return len(torchvision.models.get_model_weights(name.removeprefix(PREFIX))) > 0


def takes_one_size_only(name: str) -> bool:
    """Whether the model is one of torchvision's that can't be built for images of another size."""
    model_name = name.removeprefix(PREFIX)
    return is_from_torchvision(name) and model_name.startswith(_BUILT_FOR_ONE_SIZE)


def create(name: str, *, image_size: ImageSize, pretrained: bool) -> nn.Module:
    """Makes the model without the layers that give the classes; what pools before them stays.

    Its `pretrained_cfg` says how images are normalised, as timm's does. Raises ValueError for a
    size that the model can't take, OSError where the weights can't be downloaded.
    """
    model_name = name.removeprefix(PREFIX)
    native_size = input_size(name)
    if takes_one_size_only(name) and image_size != native_size:
        raise ValueError(
            f"{name!r} takes images of {native_size} pixels only, got image_size={image_size}; "
            f"timm's models of this kind take others"
        )
    model = with_classifier(name, pretrained=pretrained)
    if model_name.startswith(_CONVERTS_OLD_WEIGHTS):
        load = partial(nn.Module._load_from_state_dict, model)
        model._load_from_state_dict = load  # type: ignore[method-assign]
    for path in classifier_paths(model):
        model.set_submodule(path, nn.Identity())
    transforms = _transforms(name)
    config = {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}
    model.pretrained_cfg = config  # type: ignore[assignment]
    return model


def with_classifier(name: str, *, pretrained: bool) -> nn.Module:
    """Makes the model as torchvision does, but without auxiliary classifiers."""
    model_name = name.removeprefix(PREFIX)
    if pretrained:
        options: dict[str, Any] = {"weights": "DEFAULT"}
    else:
        options = {"weights": None, **_OPTIONS.get(model_name, {})}
    model: nn.Module = torchvision.models.get_model(model_name, **options)
    remove_auxiliary_classifiers(model)
    return model


def remove_auxiliary_classifiers(model: nn.Module) -> None:
    """Removes further classifiers of inner layers, which are for training from scratch."""
    for name in _AUXILIARY_CLASSIFIERS:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]


def source_of(name: str) -> str:
    """Python code that makes `backbone`, without weights, with nothing but torchvision."""
    model_name = name.removeprefix(PREFIX)
    options = _OPTIONS.get(model_name, {})
    # The model is made only to see the names of its layers, so without memory where that works: a
    # RegNet computes their widths with tensors.
    device = "cpu" if model_name.startswith("regnet") else "meta"
    with isolated(), torch.device(device):
        model = torchvision.models.get_model(model_name, weights=None, **options)
    arguments = [f'"{model_name}"', "weights=None"]
    for key, value in options.items():
        arguments.append(f"{key}={value!r}")
    lines = [
        "import torchvision",
        "from torch import nn",
        "",
        f"backbone = torchvision.models.get_model({', '.join(arguments)})",
    ]
    for path in classifier_paths(model):
        lines.append(f'backbone.set_submodule("{path}", nn.Identity())')
    if model_name.startswith(_CONVERTS_OLD_WEIGHTS):
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
