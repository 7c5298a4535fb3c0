"""model.safetensors: a model's weights, under timm's own names where timm's model can take them."""

from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from finetune.models.classifier import Architecture
from finetune.models.torchvision_backbones import PREFIX as TORCHVISION_PREFIX
from finetune.randomness import generator, isolated

_CLASSIFIER = "timm_classifier"


def save(model: nn.Module, file: Path, classifier: str | None = None) -> None:
    """Writes the weights; classifier: the name that timm has for our head, see `classifier_of`."""
    if classifier is None:
        save_model(model, str(file))
        return
    named = {_to_timm(name, classifier): value for name, value in model.state_dict().items()}
    # timm wants a tied weight under each of its names, and safetensors no memory twice
    copies = {n: v.cpu().clone(memory_format=torch.contiguous_format) for n, v in named.items()}
    save_file(copies, str(file), {"format": "pt", _CLASSIFIER: classifier})


def load(model: nn.Module, file: Path) -> None:
    """Takes back what `save` wrote; whatever safetensors or torch raise comes through."""
    with safe_open(str(file), framework="pt") as opened:
        classifier = (opened.metadata() or {}).get(_CLASSIFIER)
    if classifier is None:
        load_model(model, str(file))
        return
    state = load_file(str(file))
    model.load_state_dict({_to_ours(name, classifier): value for name, value in state.items()})


def classifier_of(made: Architecture) -> str | None:
    """The layer of timm's own model, such as "fc", that the head is; None where it is none.

    It is one where the head is a Linear layer, without a scale, over the features that timm's own
    classifier gets.
    """
    if made.head != "linear" or made.scaled or made.backbone.startswith(TORCHVISION_PREFIX):
        return None
    return _classifier(made.backbone, made.classes, made.image_size)


def timm_source(made: Architecture, file: str) -> str:
    """Python that makes timm's own model with the weights; for one with a `classifier_of`."""
    options = {"num_classes": made.classes, **_options(made.backbone, made.image_size)}
    arguments = "".join(f", {name}={value}" for name, value in options.items())
    return f'timm.create_model("{made.backbone}"{arguments}, checkpoint_path="{file}")'


@cache
def _classifier(backbone: str, classes: int, image_size: int) -> str | None:
    """Compares timm's model with its backbone alone and a Linear layer, with random weights."""
    options = _options(backbone, image_size)
    images = torch.rand(2, 3, image_size, image_size, generator=generator(0, "export"))
    with isolated(), torch.no_grad():
        whole: Any = timm.create_model(backbone, num_classes=classes, **options).eval()
        alone = timm.create_model(backbone, num_classes=0, **options).eval()
        name = whole.pretrained_cfg.get("classifier")
        linear = dict(whole.named_modules()).get(name) if isinstance(name, str) else None
        if not isinstance(linear, nn.Linear):  # a distilled model has two classifiers
            return None
        nn.init.normal_(linear.weight)  # zero in some, so that nothing would be compared
        try:
            missing, unexpected = whole.load_state_dict(alone.state_dict(), strict=False)
            expected, outputs = linear(alone(images)), whole(images)
        except RuntimeError:  # shapes that do not fit: there is more between the two
            return None
    fits = not unexpected and set(missing) == {f"{name}.weight", f"{name}.bias"}
    tolerance = 1e-4 * float(expected.abs().max())
    return name if fits and torch.allclose(expected, outputs, rtol=0, atol=tolerance) else None


def _options(backbone: str, image_size: int) -> dict[str, Any]:
    """As for our backbone: those that are built for one size are built for this one."""
    config = timm.models.get_pretrained_cfg(backbone)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size:
        return {}
    return {"img_size": image_size}


def _to_timm(name: str, classifier: str) -> str:
    """backbone.conv1.weight -> conv1.weight, head.1.weight -> fc.weight"""
    part, _, rest = name.partition(".")
    return rest if part == "backbone" else f"{classifier}.{rest.partition('.')[2]}"


def _to_ours(name: str, classifier: str) -> str:
    """conv1.weight -> backbone.conv1.weight, fc.weight -> head.1.weight"""
    layer, _, own = name.rpartition(".")
    return f"head.1.{own}" if layer == classifier else f"backbone.{name}"
