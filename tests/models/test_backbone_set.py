"""Several backbones side by side: their inputs, their features, their weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import copy_of, same_state
from torch import Tensor, nn

from finetune import WeightsError
from finetune.models.backbone_set import (
    BackboneSet,
    MemberInput,
    checked_names,
    create_backbone_set,
    members_of,
    source_of_set,
)
from finetune.models.backbones import create_backbone, normalisation_of

NAMES = ("test_vit", "torchvision/squeezenet1_1")
SIZES = (64, 32)


@pytest.fixture(scope="module")
def pair() -> BackboneSet:
    torch.manual_seed(0)
    return create_backbone_set(NAMES, SIZES, weights=None).eval()


class Constant(nn.Module):
    """Two features: the mean of the image and its double, `times` as large."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times = times

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return self.times * torch.stack([mean, 2 * mean], dim=1)


def test_one_name_or_a_list_of_names() -> None:
    assert checked_names("test_vit") == ("test_vit",)
    assert checked_names(["test_vit", "test_resnet"]) == ("test_vit", "test_resnet")


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        ([], ValueError, "backbone names none; it is one name, or a list"),
        (["test_vit", "test_vit"], ValueError, "'test_vit' 2 times; name it once"),
        (["test_vit", "resnet_50"], ValueError, "no backbone 'resnet_50' in timm; did you mean"),
        (["test_vit", 3], TypeError, "backbone must be a text, got 3"),
        (3, TypeError, "backbone must be a list of names of backbones, or one name, got 3"),
    ],
)
def test_other_names_are_errors(backbone: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        checked_names(backbone)  # type: ignore[arg-type]


def test_each_backbone_gets_its_own_size_and_normalisation(pair: BackboneSet) -> None:
    received: dict[str, Tensor] = {}
    hooks = []
    for name, member in members_of(pair).items():

        def keep(module: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            received[name] = inputs[0]

        hooks.append(member.register_forward_pre_hook(keep))
    rgb = torch.rand(2, 3, 96, 96)
    set_mean, set_std = (torch.tensor(v).view(3, 1, 1) for v in normalisation_of(pair))
    pair((rgb - set_mean) / set_std)
    for hook in hooks:
        hook.remove()
    for (name, member), size in zip(members_of(pair).items(), SIZES, strict=True):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in normalisation_of(member))
        resized = nn.functional.interpolate(rgb, (size, size), mode="bilinear", antialias=True)
        torch.testing.assert_close(received[name], (resized - mean) / std)


def test_an_input_that_is_right_already_is_handed_on() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert MemberInput(8, [1.0] * 3, [0.0] * 3)(images) is images


def test_features_are_side_by_side(pair: BackboneSet) -> None:
    images = torch.rand(2, 3, 64, 64)
    features = pair(images)
    first, second = members_of(pair).values()
    expected = [first(images), second(pair.inputs[1](images))]
    widths = [member_features.shape[1] for member_features in expected]
    for part, member_features in zip(features.split(widths, dim=1), expected, strict=True):
        normalised = nn.functional.layer_norm(member_features, member_features.shape[1:])
        torch.testing.assert_close(part, normalised)


def test_larger_features_do_not_outweigh_others() -> None:
    inputs: list[nn.Module] = [MemberInput(8, [1.0] * 3, [0.0] * 3) for _ in range(2)]
    features = BackboneSet({"small": Constant(), "large": Constant(100.0)}, inputs)(
        torch.rand(4, 3, 8, 8)
    )
    torch.testing.assert_close(features[:, :2], features[:, 2:], rtol=1e-3, atol=0)


def test_one_backbone_is_its_own_member() -> None:
    backbone = Constant()
    assert members_of(backbone) == {"": backbone}


def test_every_backbone_may_have_weights_of_its_own() -> None:
    names = ("test_vit", "test_resnet")
    states = {}
    for name in names:
        states[name] = create_backbone(name, image_size=32, weights=None).state_dict()
    for weights in (states, list(states.values())):
        members = members_of(create_backbone_set(names, (32, 32), weights))
        for member, state in zip(members.values(), states.values(), strict=True):
            assert same_state(member.state_dict(), state)


def test_the_weights_of_a_set_fit_one_of_the_same_backbones(
    pair: BackboneSet, tmp_path: Path
) -> None:
    state = copy_of(pair.state_dict())
    file = tmp_path / "model.safetensors"
    save_file({f"backbone.{name}": tensor for name, tensor in state.items()}, file)
    for weights in (state, file):
        assert same_state(create_backbone_set(NAMES, SIZES, weights).state_dict(), state)


def test_one_of_the_backbones_of_a_set_can_be_taken_out(pair: BackboneSet) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in pair.state_dict().items()}
    alone = create_backbone("test_vit", image_size=SIZES[0], weights=state)
    assert same_state(alone.state_dict(), members_of(pair)["test_vit"].state_dict())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([None], r"weights must be one for each of the backbones test_vit, .*, got 1: \[None\]"),
        ({"test_vit": None, "test_resnet": None}, "'test_resnet', which is none of the backbones"),
        ({"test_vit": None}, "weights leaves out 'torchvision/squeezenet1_1'; name every backbone"),
    ],
)
def test_weights_for_other_backbones_are_errors(weights: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone_set(NAMES, SIZES, weights)  # type: ignore[arg-type]


def test_the_weights_of_another_set_are_an_error(pair: BackboneSet) -> None:
    with pytest.raises(WeightsError, match=r"they have no names with 'test_resnet'.*name: file"):
        create_backbone_set(["test_resnet", "test_vit"], SIZES, pair.state_dict())


def test_the_source_makes_the_same_set_without_finetune(pair: BackboneSet) -> None:
    names: dict = {}
    source = source_of_set(pair, NAMES)
    assert "finetune" not in source
    exec(source, names)
    rebuilt = names["backbone"].eval()
    rebuilt.load_state_dict(pair.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(rebuilt(images), pair(images))
