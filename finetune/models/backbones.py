"""Backbones: a name -> a module that turns images into pooled features [B, F]."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import timm
import torch
from torch import Tensor, nn

from finetune.models import hub, torchvision_backbones
from finetune.wording import did_you_mean

Weights: TypeAlias = "Literal['pretrained'] | str | Path | Mapping[str, Tensor] | None"


class WeightsError(RuntimeError):
    """Pretrained weights that can't be had, or do not fit the backbone."""


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, for a backbone that nobody has."""
    if name.startswith(torchvision_backbones.PREFIX):
        torchvision_backbones.check_name(name)
        return
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError:
            tags = ", ".join(timm.list_pretrained(f"{architecture}.*"))
            raise ValueError(f"timm has no weights {name!r}; it has {tags or 'none'}") from None
        return
    hint = did_you_mean(architecture, timm.list_models(), count=3)
    raise ValueError(f"there is no backbone {name!r} in timm; {hint}")


def create_backbone(name: str, *, image_size: int, weights: Weights = "pretrained") -> nn.Module:
    """The backbone without its classifier; it pools by itself.

    name: any timm model name, with or without a tag of pretrained weights, or one of torchvision's
    as "torchvision/resnet50". image_size: pixels; timm's architectures that are built for one size
    are built for this one. weights: "pretrained" downloads them; a path (.safetensors, .pth) or a
    mapping of tensors is used instead; None leaves random weights. Raises ValueError for an unknown
    name and WeightsError when the weights can't be had: never are weights random in silence.
    """
    check_name(name)
    if isinstance(weights, str) and weights == "pretrained":
        return _pretrained(name, image_size)
    backbone = _build(name, image_size, pretrained=False)
    if weights is not None:
        is_file = isinstance(weights, str | Path)
        source = f"the file {str(weights)!r} does" if is_file else "the given tensors do"
        state = read_weights(weights) if isinstance(weights, str | Path) else weights
        _load(backbone, name, state, source)
    return backbone


def _build(name: str, image_size: int, *, pretrained: bool) -> nn.Module:
    if name.startswith(torchvision_backbones.PREFIX):
        return torchvision_backbones.create(name, image_size=image_size, pretrained=pretrained)
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **_options(name, image_size))
    return model


def _options(name: str, image_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"num_classes": 0}
    if _is_built_for_one_size(name) and image_size != input_size_of(name):
        options["img_size"] = image_size
    return options


def source_of(name: str, image_size: int) -> str:
    """Python that makes `backbone`, without weights, from timm's or torchvision's own parts.

    >>> print(source_of("resnet18", 224))
    import timm
    <BLANKLINE>
    backbone = timm.create_model("resnet18", num_classes=0)
    """
    check_name(name)
    if name.startswith(torchvision_backbones.PREFIX):
        return torchvision_backbones.source_of(name)
    options = "".join(f", {key}={value!r}" for key, value in _options(name, image_size).items())
    return f'import timm\n\nbackbone = timm.create_model("{name}"{options})'


def normalisation_of(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel that the backbone was trained with, in [0, 1]."""
    config = _config(backbone)
    return tuple(config["mean"]), tuple(config["std"])


def input_size_of(name: str) -> int:
    """Side of the images that a backbone was trained with, in pixels."""
    check_name(name)
    if name.startswith(torchvision_backbones.PREFIX):
        return torchvision_backbones.input_size(name)
    config = timm.models.get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else 224


def features_of(backbone: nn.Module, image_size: int) -> int:
    """Width F of the pooled features, found by running the backbone once.

    Raises ValueError if it does not give [B, F], as encoder-only models don't.
    """
    device = next(backbone.parameters()).device
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():  # what a model keeps for later must be able to train
            features = backbone(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        backbone.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{type(backbone).__name__} gives {shape}, not pooled features [B, F]")
    return int(features.shape[1])


def checkpoint_activations(backbone: nn.Module) -> None:
    """Computes most outputs again in the backward pass instead of keeping them.

    Raises ValueError for an architecture that can't do that, as torchvision's can't.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        name = type(backbone).__name__
        raise ValueError(f"activations of {name} can't be checkpointed; leave it out") from None


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors or .pth file, without unpickling code. Raises WeightsError."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise WeightsError(f"{str(path)!r} is no readable weights file: {first}") from error
    for nested in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(nested), dict):
            content = content[nested]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{str(path)!r} holds no mapping of names to tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _load(backbone: nn.Module, name: str, state: Mapping[str, Tensor], source: str) -> None:
    own = backbone.state_dict()
    missing = [key for key in own if key not in state]
    misfits = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or misfits:
        listed = ", ".join((missing + misfits)[:3])
        raise WeightsError(
            f"{source} not fit {name!r}: {len(missing)} tensors are missing and "
            f"{len(misfits)} have another shape, such as {listed}"
        )
    backbone.load_state_dict({key: state[key] for key in own})


def _pretrained(name: str, image_size: int) -> nn.Module:
    ways_out = (
        "give a file with weights='weights.safetensors' (or .pth), or ask for random weights with "
        "weights=None"
    )
    in_timm = not name.startswith(torchvision_backbones.PREFIX)
    config = timm.models.get_pretrained_cfg(name) if in_timm else None
    if in_timm and config is None:
        raise WeightsError(f"timm has no pretrained weights for {name!r}; {ways_out}")
    try:
        if config is not None and config.hf_hub_id:
            hub.check_reachable(config.hf_hub_id)
        return _build(name, image_size, pretrained=True)
    except OSError as error:  # as hub and network errors are
        first = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"can't get the pretrained weights of {name!r}: {first}\nWithout a network, {ways_out}"
        ) from error
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"can't load pretrained weights of {name!r}: {first}; {ways_out}"
        ) from error


def _config(backbone: nn.Module) -> Mapping[str, Any]:
    config = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        raise ValueError(f"{type(backbone).__name__} does not say how its images are normalised")
    return config


def _is_built_for_one_size(name: str) -> bool:
    config = timm.models.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)
