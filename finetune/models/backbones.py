"""Backbones: a name -> a module that turns images into pooled features [B, F]."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import timm
import torch
from torch import Tensor, nn

from finetune import arguments
from finetune.files.integrity import DamagedError, check_described, check_torch_file
from finetune.image_size import ImageSize, height_and_width, in_pixels, is_square
from finetune.models import hub, torchvision_backbones
from finetune.models.channels import first_layer_for_channels
from finetune.models.finite import broken_in_words, non_finite_weights
from finetune.models.weight_names import tensors_of
from finetune.wording import did_you_mean

_EXPORTED = "model.safetensors"
"""The weights in a folder that `Learner.export` wrote."""

Weights: TypeAlias = Literal["pretrained"] | str | Path | Mapping[str, Tensor] | None
"""What weights a backbone begins with, see `create_backbone`."""


class WeightsError(RuntimeError):
    """Pretrained weights are not available, or do not fit the backbone.

    >>> try:
    ...     create_backbone("resnet18", image_size=224, weights="nothing.safetensors")
    ... except WeightsError as error:
    ...     print(error)
    there is no weights file 'nothing.safetensors'
    """


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, for a backbone that neither library has."""
    arguments.text("backbone", name)
    if torchvision_backbones.is_from_torchvision(name):
        torchvision_backbones.check_name(name)
        return
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), count=3)
        raise ValueError(f"there is no backbone {name!r} in timm; {hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*"))
        raise ValueError(f"timm has no weights {name!r}; it has {tags or 'none'}") from None


def create_backbone(
    name: str, *, image_size: ImageSize, weights: Weights = "pretrained", channels: int = 3
) -> nn.Module:
    """Makes a backbone without its classifier: images [B, C, H, W] -> pooled features [B, F].

    name: any timm model name, with or without a tag of pretrained weights, or one of torchvision's
    as "torchvision/resnet50".
    image_size: pixels, one number or (height, width); timm's architectures that are built for one
    size are built for this one.
    weights: "pretrained" downloads them; a path (.safetensors, .pth, an exported folder) or a
    mapping of tensors is used instead; None leaves random weights. They may be of a model that has
    the backbone as a part, and of another image size, see `weight_names.tensors_of`. channels: of
    the images. Weights of the first layer for red, green and blue become those of other channels as
    timm does it: a single one has their sum, more have them in turn and weigh as much together.

    Raises ValueError for an unknown name, and WeightsError when the weights are not available or do
    not fit: weights are random only where the caller asks for it.
    """
    check_name(name)
    if not (weights is None or isinstance(weights, str | Path | Mapping)):
        raise TypeError(
            "weights must be 'pretrained', a path, a mapping of names to tensors or None, got "
            f"{arguments.shown(weights)}"
        )
    if isinstance(weights, str) and weights == "pretrained":
        return _pretrained(name, image_size, channels)
    backbone = _build(name, image_size, channels, pretrained=False)
    if isinstance(weights, str | Path):
        _load(backbone, name, read_weights(weights), f"the file {str(weights)!r} does")
    elif weights is not None:
        _load(backbone, name, weights, "the given tensors do")
    return backbone


def _build(name: str, image_size: ImageSize, channels: int, *, pretrained: bool) -> nn.Module:
    if torchvision_backbones.is_from_torchvision(name):
        if channels != 3:
            raise ValueError(
                f"{name!r} takes images of 3 channels only, got channels={channels}; timm's models "
                "take others"
            )
        return torchvision_backbones.create(name, image_size=image_size, pretrained=pretrained)
    options = _timm_options(name, image_size, channels)
    with _explained(repr(name), image_size):
        backbone: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return backbone


@contextmanager
def _explained(name: str, image_size: ImageSize) -> Iterator[None]:
    """Says of what only takes squares that it does; what else goes wrong is said as it is."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if is_square(image_size):
            raise
        raise ValueError(
            f"{name} can't take images of {in_pixels(image_size)} ({_first_line(error)}); pass "
            "one number as image_size, for squares, or take another backbone"
        ) from error


def _timm_options(name: str, image_size: ImageSize, channels: int) -> dict[str, Any]:
    options: dict[str, Any] = {"num_classes": 0}
    if channels != 3:
        options["in_chans"] = channels
    if _is_built_for_one_size(name) and image_size != input_size_of(name):
        options["img_size"] = image_size
    return options


def source_of(name: str, image_size: ImageSize, channels: int = 3) -> str:
    """Python code that makes `backbone`, without weights, with nothing but timm or torchvision.

    >>> print(source_of("resnet18", 224))
    import timm
    <BLANKLINE>
    backbone = timm.create_model("resnet18", num_classes=0)
    """
    check_name(name)
    if torchvision_backbones.is_from_torchvision(name):
        return torchvision_backbones.source_of(name)
    arguments = [f'"{name}"']
    for key, value in _timm_options(name, image_size, channels).items():
        arguments.append(f"{key}={value!r}")
    return f"import timm\n\nbackbone = timm.create_model({', '.join(arguments)})"


def normalisation_of(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, by channel in [0, 1], of the backbone's training images.

    Raises ValueError if the backbone does not say them.
    """
    config = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        raise ValueError(f"{type(backbone).__name__} does not say how its images are normalised")
    return tuple(config["mean"]), tuple(config["std"])


def input_size_of(name: str) -> int:
    """Side of the images that a backbone was trained with, in pixels; 224 if it does not say."""
    check_name(name)
    if torchvision_backbones.is_from_torchvision(name):
        return torchvision_backbones.input_size(name)
    config = timm.models.get_pretrained_cfg(name)
    if config is None:
        return 224
    return int(config.input_size[-1])


def image_size_for(name: str, image_size: ImageSize) -> ImageSize:
    """Size of the images that a backbone takes, where others take `image_size`: that, or its own.

    torchvision's transformers are built for a single size.
    """
    if torchvision_backbones.takes_one_size_only(name):
        return input_size_of(name)
    return image_size


def features_of(backbone: nn.Module, image_size: ImageSize, channels: int = 3) -> int:
    """Width F of the pooled features; the backbone is run once to see it, and stays as it was.

    Raises ValueError if the backbone does not return [B, F], as encoder-only models don't, and if
    it takes squares only and the size is none.
    """
    device = next(backbone.parameters()).device
    images = torch.zeros(1, channels, *height_and_width(image_size), device=device)
    was_training = backbone.training
    backbone.eval()
    try:
        # inference_mode would make tensors that a model caches unusable in training
        with torch.no_grad(), _explained(type(backbone).__name__, image_size):
            features = backbone(images)
    finally:
        backbone.train(was_training)
    is_tensor = isinstance(features, Tensor)
    if not is_tensor or features.ndim != 2:
        output = tuple(features.shape) if is_tensor else type(features).__name__
        raise ValueError(f"{type(backbone).__name__} gives {output}, not pooled features [B, F]")
    return int(features.shape[1])


def checkpoint_activations(backbone: nn.Module) -> None:
    """Makes the backbone compute most activations again in the backward pass, to save memory.

    Raises ValueError for an architecture that can't do that; torchvision's can't.
    """
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        name = type(backbone).__name__
        raise ValueError(f"activations of {name} can't be checkpointed; leave it out") from None


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Reads names and tensors, without unpickling code.

    path: of a .safetensors or .pth file, or of a folder that `Learner.export` wrote.

    Raises WeightsError if there is no such file, or it is damaged or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        path = path / _EXPORTED
    if not path.is_file():
        raise WeightsError(f"there is no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            # an exported model has check sums in the file beside it, safetensors alone has none
            check_described(path, path.with_name("model.json"))
            return load_file(path)
        check_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = _why_unreadable(error)
        raise WeightsError(f"{str(path)!r} is no readable weights file: {reason}") from error
    return _state_dict_of(content, path)


def _why_unreadable(error: Exception) -> str:
    """The reason in words; not torch's, which recommends careless unpickling."""
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror
    if type(error).__module__.startswith("safetensors"):
        return _first_line(error)
    return type(error).__name__


def _state_dict_of(content: object, path: Path) -> Mapping[str, Tensor]:
    """The tensors in what was saved to a .pth file, perhaps a whole training checkpoint."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not _all_tensors(content.values()):
        raise WeightsError(f"{str(path)!r} holds no mapping of names to tensors")
    return content


def _all_tensors(values: Iterable[object]) -> bool:
    return all(isinstance(value, Tensor) for value in values)


def _load(backbone: nn.Module, name: str, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads what the backbone needs of the weights, which may be those of a whole classifier.

    source: what they come from, with its verb, for the error. Raises WeightsError if they do not
    fit.
    """
    backbone_state = backbone.state_dict()
    try:
        weights = tensors_of(backbone, weights)
    except ValueError as error:
        raise WeightsError(f"{source} not fit {name!r}: it {error}") from None
    weights = first_layer_for_channels(backbone, weights)
    missing = [key for key in backbone_state if key not in weights]
    misshapen = []
    for key, tensor in backbone_state.items():
        if key in weights and weights[key].shape != tensor.shape:
            misshapen.append(key)
    if missing or misshapen:
        examples = ", ".join((missing + misshapen)[:3])
        raise WeightsError(
            f"{source} not fit {name!r}: {len(missing)} tensors are missing and "
            f"{len(misshapen)} have another shape, such as {examples}"
        )
    backbone.load_state_dict({key: weights[key] for key in backbone_state})
    broken = non_finite_weights(backbone)
    if broken:
        raise WeightsError(
            f"{source} hold weights that are NaN or infinite: {broken_in_words(broken)}; they come "
            "from a training that diverged, take an earlier file"
        )


def _pretrained(name: str, image_size: ImageSize, channels: int) -> nn.Module:
    """The backbone with downloaded weights; WeightsError says what to do where there are none."""
    ways_out = (
        "give a file with weights='weights.safetensors' (or .pth), or ask for random weights with "
        "weights=None"
    )
    is_of_timm = not torchvision_backbones.is_from_torchvision(name)
    if is_of_timm and timm.models.get_pretrained_cfg(name) is None:
        raise WeightsError(f"timm has no pretrained weights for {name!r}; {ways_out}")
    hub_repository = hub_repository_of(name)
    try:
        if hub_repository:
            hub.check_reachable(hub_repository)
        return _build(name, image_size, channels, pretrained=True)
    except OSError as error:  # as hub and network errors are
        # `from None`: the errors of several libraries below would hide this one
        raise WeightsError(
            f"can't get the pretrained weights of {name!r}: {_first_line(error)}\n"
            f"Without a network, {ways_out}. `finetune demo` needs none, and leaves weights of "
            "ImageNet in finetune-demo/imagenet.safetensors"
        ) from None
    except RuntimeError as error:
        raise WeightsError(
            f"can't load pretrained weights of {name!r}: {_first_line(error)}; {ways_out}"
        ) from error


def hub_repository_of(name: str) -> str | None:
    """Where on the model hub a backbone's pretrained weights are; None if they are not there.

    >>> hub_repository_of("resnet18"), hub_repository_of("torchvision/resnet18")
    ('timm/resnet18.a1_in1k', None)
    """
    if torchvision_backbones.is_from_torchvision(name):
        return None
    config = timm.models.get_pretrained_cfg(name)
    repository: str | None = None if config is None else config.hf_hub_id
    return repository


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _is_built_for_one_size(name: str) -> bool:
    config = timm.models.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)
