"""Which layers of a model give the classes."""

from collections.abc import Sequence

from torch import nn

HEAD_NAMES = ("fc", "head", "heads", "classifier", "classif", "last_linear")
"""What networks call the child that ends with the classifier."""

_LAYERS = (nn.Linear, nn.Conv2d)


def classifier_layers(model: nn.Module) -> Sequence[nn.Module]:
    """The layers that give the classes, without what is in front of them; empty if there are none.

    They are what timm initialises anew for another number of classes, or else the last layer under
    a child called head or the like.
    """
    inside_heads = {id(module) for head in _heads(model) for module in head.modules()}
    layers: list[nn.Linear | nn.Conv2d] = []
    for module in model.modules():
        if isinstance(module, _LAYERS) and id(module) in inside_heads:
            layers.append(module)
    classes = getattr(model, "num_classes", None)
    layers_of_classes = [layer for layer in layers if layer.weight.shape[0] == classes]
    return layers_of_classes or layers[-1:]


def classifier_paths(model: nn.Module) -> list[str]:
    """The paths of `classifier_layers`."""
    layers = set(map(id, classifier_layers(model)))
    return [path for path, module in model.named_modules() if id(module) in layers]


def _heads(model: nn.Module) -> list[nn.Module]:
    """The modules in which the classifier is, perhaps among other layers."""
    get_classifier = getattr(model, "get_classifier", None)
    if not callable(get_classifier):
        heads = [child for name, child in model.named_children() if name in HEAD_NAMES]
        return heads[-1:]
    classifier = get_classifier()
    has_several = isinstance(classifier, tuple | nn.ModuleList)
    candidates = list(classifier) if has_several else [classifier]
    # timm's configuration may name one that get_classifier() leaves out
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    if isinstance(names, str):
        names = [names]
    modules = dict(model.named_modules())
    candidates += [modules.get(name) for name in names]
    return [candidate for candidate in candidates if isinstance(candidate, nn.Module)]
