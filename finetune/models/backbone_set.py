"""BackboneSet: several backbones look at the same images, their features side by side."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from finetune import arguments
from finetune.image_size import ImageSize
from finetune.models.backbones import (
    Weights,
    WeightsError,
    check_name,
    create_backbone,
    features_of,
    normalisation_of,
    read_weights,
    source_of,
)
from finetune.models.channels import of_channels
from finetune.models.module_order import join_path
from finetune.wording import did_you_mean

BackboneNames: TypeAlias = str | Sequence[str]
"""The name of one backbone, or the names of several."""

SetWeights: TypeAlias = Weights | Sequence[Weights] | Mapping[str, Weights]
"""What weights several backbones begin with, see `create_backbone_set`."""


def checked_names(backbone: BackboneNames) -> tuple[str, ...]:
    """The names of one or of several backbones.

    Raises TypeError for what is no name and no list of names, ValueError for an unknown name, for
    one that is there twice, and for none.
    """
    if isinstance(backbone, str):
        check_name(backbone)
        return (backbone,)
    names = list(arguments.sequence("backbone", backbone, "names of backbones, or one name"))
    if not names:
        raise ValueError("backbone names none; it is one name, or a list of names")
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise ValueError(f"backbone names {name!r} {names.count(name)} times; name it once")
    return tuple(names)


# The source of these two classes is part of a model card, so they need nothing but torch.


class MemberInput(nn.Module):
    """Turns images [B, 3, H, W], normalised for the set, into the input of one of its backbones.

    image_size: side of the backbone's images in pixels, or height and width. scale, shift: for each
    channel, from the normalisation of the set to the backbone's.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, image_size: int | tuple[int, int], scale: list[float], shift: list[float]
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.arguments = (image_size, scale, shift)
        self.is_normalised = set(scale) == {1.0} and set(shift) == {0.0}
        # they follow from the names of the backbones, so they are no part of the weights
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.is_normalised:
            images = images * self.scale + self.shift
        if images.shape[-2:] == self.sides:
            return images
        return nn.functional.interpolate(images, self.sides, mode="bilinear", antialias=True)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.arguments))


class BackboneSet(nn.Module):
    """Several backbones: images [B, 3, H, W] -> their pooled features side by side, [B, F1 + F2].

    The features of each backbone are normalised for each image to mean 0 and variance 1, so that
    none outweighs the others because its numbers are larger.
    members: the backbones, by the name that they get as a submodule. inputs: the `MemberInput` of
    each.
    """

    def __init__(self, members: dict[str, nn.Module], inputs: list[nn.Module]) -> None:
        super().__init__()
        self.names = list(members)
        self.inputs = nn.ModuleList(inputs)
        for name, member in members.items():
            self.add_module(name, member)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        side_by_side = []
        for name, member_input in zip(self.names, self.inputs, strict=True):
            features = self.get_submodule(name)(member_input(images))
            side_by_side.append(nn.functional.layer_norm(features, features.shape[1:]))
        return torch.cat(side_by_side, dim=1)


def members_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The backbones of a set, by their paths in it; or the one backbone that it is, at path ""."""
    if not isinstance(backbone, BackboneSet):
        return {"": backbone}
    return {name: backbone.get_submodule(name) for name in backbone.names}


def member_paths(model: nn.Module) -> list[str]:
    """The paths of the backbones of a set that is somewhere in the model; none without a set."""
    paths: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, BackboneSet):
            paths.extend(join_path(path, name) for name in module.names)
    return paths


def create_backbone_set(
    names: Sequence[str],
    image_sizes: Sequence[ImageSize],
    weights: SetWeights = "pretrained",
    *,
    channels: int = 3,
) -> BackboneSet:
    """Makes several backbones into one: images [B, 3, H, W] -> features [B, F1 + F2 + ...].

    Images are normalised as the first of the backbones says; each of the others gets them in its
    own normalisation, and all of them in their own size.
    names: see `create_backbone`. image_sizes: pixels, for each backbone. weights: "pretrained" or
    None for all; a list in the order of the names, or a mapping by name, of what one backbone may
    be given; or a path or a mapping of tensors of a whole set, as `Learner.export` writes it.

    >>> backbones = create_backbone_set(["test_resnet", "test_vit"], [64, 160], weights=None)
    >>> backbones(torch.zeros(2, 3, 160, 160)).shape
    torch.Size([2, 160])
    """
    members: dict[str, nn.Module] = {}
    for name, image_size, of_member in zip(
        names, image_sizes, _weights_by_member(names, weights), strict=True
    ):
        member = create_backbone(name, image_size=image_size, weights=of_member, channels=channels)
        features_of(member, image_size, channels)  # an error of one of them, with its name
        members[_path_of(name)] = member
    set_mean, set_std = normalisation_of(members[_path_of(names[0])])
    inputs: list[nn.Module] = []
    for member, image_size in zip(members.values(), image_sizes, strict=True):
        mean, std = normalisation_of(member)
        # (value - mean) / std, of a value that is x * set_std + set_mean
        normalisation = [of_channels(values, channels) for values in (set_mean, set_std, mean, std)]
        scale, shift = [], []
        for mean_in_set, std_in_set, own_mean, own_std in zip(*normalisation, strict=True):
            scale.append(std_in_set / own_std)
            shift.append((mean_in_set - own_mean) / own_std)
        inputs.append(MemberInput(image_size, scale, shift))
    backbone = BackboneSet(members, inputs)
    config = {"mean": set_mean, "std": set_std}
    backbone.pretrained_cfg = config  # type: ignore[assignment]
    return backbone


def with_downloaded_weights(names: Sequence[str], weights: SetWeights) -> list[str]:
    """Those of the backbones that begin with pretrained weights, which are downloaded.

    >>> with_downloaded_weights(["resnet18", "vit"], {"resnet18": "pretrained", "vit": None})
    ['resnet18']
    """
    by_name: Mapping[str, Any] = {}
    if isinstance(weights, str):
        by_name = dict.fromkeys(names, weights)
    elif isinstance(weights, Mapping):
        by_name = weights
    elif isinstance(weights, list | tuple):
        by_name = dict(zip(names, weights, strict=True))
    downloaded = []
    for name in names:
        of_backbone = by_name.get(name)
        if isinstance(of_backbone, str) and of_backbone == "pretrained":
            downloaded.append(name)
    return downloaded


def source_of_set(backbone: BackboneSet, names: Sequence[str], channels: int = 3) -> str:
    """Python code that makes `backbone`, a set, without weights and without finetune.

    names: of its members.
    """
    imports = dict.fromkeys(["import torch", "from torch import nn"])
    constructions = [inspect.getsource(MemberInput), inspect.getsource(BackboneSet), "members = {}"]
    inputs = ["inputs = ["]
    for name, path, member_input in zip(names, backbone.names, backbone.inputs, strict=True):
        assert isinstance(member_input, MemberInput)
        source = source_of(name, member_input.image_size, channels)
        member_imports, _, construction = source.partition("\n\n")
        imports |= dict.fromkeys(member_imports.splitlines())
        constructions.append(f'{construction}\nmembers["{path}"] = backbone')
        inputs.append(f"    {member_input!r},")
    constructions += ["\n".join([*inputs, "]"]), "backbone = BackboneSet(members, inputs)"]
    return "\n".join(imports) + "\n\n" + "\n\n".join(constructions)


def _path_of(name: str) -> str:
    """The name of a backbone as that of a submodule, which may have no dot.

    >>> _path_of("torchvision/resnet50"), _path_of("resnet50.a1_in1k")
    ('torchvision_resnet50', 'resnet50_a1_in1k')
    """
    return name.replace("/", "_").replace(".", "_")


def _weights_by_member(names: Sequence[str], weights: SetWeights) -> list[Weights]:
    """What each of the backbones begins with, in the order of the names.

    Raises ValueError for weights of other backbones than these, WeightsError for those of a whole
    set that do not have all of them.
    """
    if isinstance(weights, list | tuple):
        if len(weights) != len(names):
            raise ValueError(
                f"weights must be one for each of the backbones {', '.join(names)}, got "
                f"{len(weights)}: {arguments.shown(weights)}"
            )
        return list(weights)
    if isinstance(weights, Mapping):
        tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
        are_tensors = len(tensors) == len(weights)
        return _parts(names, tensors) if are_tensors else _by_name(names, weights)
    if isinstance(weights, str | Path) and weights != "pretrained":
        return _parts(names, read_weights(weights))
    return [weights] * len(names)  # type: ignore[list-item]


def _by_name(names: Sequence[str], weights: Mapping[str, Any]) -> list[Weights]:
    for name in weights:
        if name not in names:
            hint = did_you_mean(str(name), names)
            raise ValueError(f"weights names {name!r}, which is none of the backbones; {hint}")
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(
            f"weights leaves out {', '.join(map(repr, missing))}; name every backbone, also with "
            "'pretrained' or None"
        )
    return [weights[name] for name in names]


def _parts(names: Sequence[str], weights: Mapping[str, Tensor]) -> list[Weights]:
    """The tensors of each backbone among those of a set, under the backbone's own names."""
    parts: list[Weights] = []
    for name in names:
        path = _path_of(name)
        tensors: dict[str, Tensor] = {}
        for key, tensor in weights.items():
            _, is_inside, name_in_member = f".{key}".partition(f".{path}.")
            if is_inside:
                tensors[name_in_member] = tensor
        if not tensors:
            raise WeightsError(
                f"the given weights are not of these backbones: they have no names with {path!r}; "
                "for a file of each backbone give weights={name: file, ...}"
            )
        parts.append(tensors)
    return parts
