"""Backbones that are given as objects of timm or torchvision, not by their names."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import timm
import torchvision
from torch import nn

from finetune import arguments
from finetune.models import torchvision_backbones
from finetune.models.backbone_set import BackboneNames, SetWeights
from finetune.models.classifier_layers import classifier_paths
from finetune.models.listing import without_weights
from finetune.models.wrappers import check_not_wrapped
from finetune.randomness import isolated

BackboneFactory: TypeAlias = Callable[..., nn.Module]
"""A function of timm or torchvision that makes a model, such as `torchvision.models.resnet18`."""

BackboneLike: TypeAlias = BackboneNames | BackboneFactory | nn.Module
"""One backbone by name, factory or as a model; or several by name or factory."""


def by_name(backbone: BackboneLike, weights: SetWeights) -> tuple[BackboneNames, SetWeights]:
    """The names of the backbones, and the weights that they begin with.

    A factory stands for its name. A model does, too, and brings its weights with it, which are not
    changed: what is trained is a copy. It may have any number of classes and any head.
    Raises ValueError for a model of another kind, or one with other layers than its name makes, and
    for weights= beside a model; TypeError for what is no backbone.
    """
    if isinstance(backbone, nn.Module):
        if weights != "pretrained":
            raise ValueError(
                "weights= are for a backbone by name, and this one is a model with weights of its "
                "own; leave weights= out"
            )
        return name_of_model(backbone), dict(backbone.state_dict())
    if isinstance(backbone, str):
        return backbone, weights
    if callable(backbone):
        return _name_of_factory(backbone), weights
    names = []
    for member in arguments.sequence("backbone", backbone, "names of backbones, or one name"):
        is_factory = callable(member) and not isinstance(member, nn.Module)
        names.append(_name_of_factory(member) if is_factory else member)
    return names, weights


def _name_of_factory(factory: BackboneFactory) -> str:
    """The name of the model that a function of timm or torchvision makes.

    >>> _name_of_factory(torchvision.models.resnet18), _name_of_factory(timm.models.resnet18)
    ('torchvision/resnet18', 'resnet18')
    """
    name = getattr(factory, "__name__", "")
    library = getattr(factory, "__module__", "").partition(".")[0]
    if library == "torchvision" and name in _torchvision_names():
        return torchvision_backbones.PREFIX + name
    if library == "timm" and timm.is_model(name):
        return str(name)
    raise ValueError(
        f"backbone={arguments.shown(factory)} is no function of timm or torchvision that makes a "
        f"classification model; {_WAYS}"
    )


def name_of_model(model: nn.Module) -> str:
    """The name by which timm or torchvision makes such a model, but for its classifier.

    >>> name_of_model(timm.create_model("test_vit", num_classes=7))
    'test_vit.r160_in1k'
    >>> name_of_model(torchvision.models.squeezenet1_1(num_classes=7))
    'torchvision/squeezenet1_1'
    """
    check_not_wrapped(model)
    differences: list[str] = []
    layers = copy.deepcopy(model).to("meta")  # without weights, so that copies cost nothing
    for name in _possible_names(model):
        difference = _first_difference(layers, _made_by(name, like=model))
        if not difference:
            return name
        differences.append(f"{name!r} differs by {difference}")
    kind = type(model).__name__
    if differences:
        raise ValueError(
            f"this {kind} has other layers than its name makes, so that it could not be rebuilt: "
            f"{differences[0]}; pass the name, or for a model that is yours {_OWN_MODEL}"
        )
    raise ValueError(f"backbone is a {kind}, of neither timm nor torchvision; {_WAYS}")


_OWN_MODEL = "write Learner(data, model, loss=...)"
_WAYS = (
    "give a name, such as 'convnext_tiny' or 'torchvision/resnet18', a model of theirs, or for a "
    f"model that is yours {_OWN_MODEL}"
)


def _possible_names(model: nn.Module) -> Sequence[str]:
    """The names that may have made a model, the likeliest first."""
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and timm.is_model(config.get("architecture", "")):
        architecture, tag = config["architecture"], config.get("tag")
        tagged = f"{architecture}.{tag}"
        return [tagged if tag and tagged in timm.list_pretrained() else architecture]
    module = type(model).__module__
    if not module.startswith("torchvision.models."):
        return []
    parameter_count = sum(parameter.numel() for parameter in model.parameters())
    names = []
    for name in _torchvision_names():
        if torchvision.models.get_model_builder(name).__module__ == module:
            names.append(name)
    # the nearest in size, so that most often a single one is built
    names.sort(key=lambda name: abs(_published_size(name) - parameter_count))
    return [torchvision_backbones.PREFIX + name for name in names]


def _torchvision_names() -> Sequence[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _published_size(name: str) -> int:
    """How many parameters one of torchvision's models has with its own classifier."""
    weights: Any = torchvision.models.get_model_weights(name)
    return int(weights.DEFAULT.meta["num_params"])


def _made_by(name: str, *, like: nn.Module) -> nn.Module:
    """The model of a name, without values where it can be built so.

    like: has a classifier, or has none, as the model is to have.
    """

    def make() -> nn.Module:
        if torchvision_backbones.is_from_torchvision(name):
            return torchvision_backbones.with_classifier(name, pretrained=False)
        model: nn.Module = timm.create_model(name, num_classes=like.num_classes)
        return model

    try:
        with without_weights():
            return make()
    except (RuntimeError, NotImplementedError):  # it computes with its weights while it is built
        with isolated():
            return make()


def _first_difference(model: nn.Module, made: nn.Module) -> str:
    """The first layer of a model that is not as it is made, in words; empty if there is none.

    What is in the place of the classifier, and of auxiliary ones, may be anything.
    """
    layers = copy.deepcopy(model)
    torchvision_backbones.remove_auxiliary_classifiers(layers)
    modules = dict(layers.named_modules())
    for path in classifier_paths(made):
        made.set_submodule(path, nn.Identity())
        if path not in modules:
            return f"no layer {path!r}"
        layers.set_submodule(path, nn.Identity())
    for line, line_as_made in zip_longest(_lines(layers), _lines(made), fillvalue="nothing"):
        if line != line_as_made:
            return f"{line!r} where {line_as_made!r} is expected"
    return ""


def _lines(model: nn.Module) -> list[str]:
    """Torch's description of the layers; what was removed from a model is None in it."""
    lines = [line.strip() for line in repr(model).splitlines()]
    return [line for line in lines if not line.endswith(": None")]
