"""The ways to say where layer groups begin."""

import re
from itertools import chain

import pytest
import timm
from torch import nn

from finetune.models.splitting import body_halves, split_model


def stack(count: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(count)))


class Named(nn.Module):
    """stem, two layers, fc: as torchvision names them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer1 = nn.Linear(2, 2), stack(2)
        self.layer2, self.fc = stack(2), nn.Linear(2, 2)


def names_of(model: nn.Module, members: list) -> list[str]:
    """Qualified names of the parameters of a group's members."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    parameters = [[m] if isinstance(m, nn.Parameter) else m.parameters() for m in members]
    return [name_of[id(p)] for group in parameters for p in group]


def test_a_sequential_of_two_is_backbone_and_head():
    model = nn.Sequential(stack(), nn.Linear(2, 2))
    assert split_model(model) == [("backbone", [model[0]]), ("head", [model[1]])]


def test_named_children_give_their_names_to_the_groups():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(2, 2))
    model.add_module("classifier", nn.Linear(2, 2))
    assert [name for name, _ in split_model(model)] == ["body", "classifier"]


@pytest.mark.parametrize("model", [stack(3), Named()], ids=["three children", "no Sequential"])
def test_any_other_model_needs_split(model: nn.Module):
    with pytest.raises(ValueError, match=r"this model is a .* children.*split=\[5, 8\]"):
        split_model(model)


def test_indices_begin_groups():
    model = stack(5)
    assert split_model(model, [1, 4]) == [
        ("0", [model[0]]),
        ("1-3", [model[1], model[2], model[3]]),
        ("4", [model[4]]),
    ]


@pytest.mark.parametrize("split", [[0], [4], [5], [-1], [2, 1], [2, 2]])
def test_indices_that_do_not_increase_inside_the_model_are_an_error(split: list[int]):
    with pytest.raises(ValueError, match="increasing indices between 1 and 3"):
        split_model(stack(4), split)


def test_indices_need_a_sequential():
    with pytest.raises(ValueError, match=r"counts the children of a Sequential.* is a Named"):
        split_model(Named(), [1])


def test_paths_begin_groups():
    model = Named()
    groups = split_model(model, ["layer2", "fc"])
    assert [name for name, _ in groups] == ["start", "layer2", "fc"]
    parameters = [names_of(model, list(members)) for _, members in groups]
    assert [*chain.from_iterable(parameters)] == [name for name, _ in model.named_parameters()]
    assert parameters[1] == ["layer2.0.weight", "layer2.0.bias", "layer2.1.weight", "layer2.1.bias"]


def test_a_path_inside_a_container_begins_a_group():
    model = Named()
    _, members = split_model(model, ["layer1.1"])[1]
    assert names_of(model, list(members))[0] == "layer1.1.weight"


def test_a_path_at_the_very_start_makes_no_empty_group():
    assert [name for name, _ in split_model(Named(), ["stem", "fc"])] == ["stem", "fc"]


def test_an_unknown_path_names_the_nearest():
    with pytest.raises(ValueError, match=r"names module 'layer22'.*did you mean 'layer2"):
        split_model(Named(), ["layer22"])


def test_paths_out_of_order_are_an_error():
    with pytest.raises(ValueError, match="in the order of the model; 'stem' comes before 'fc'"):
        split_model(Named(), ["fc", "stem"])


def test_a_function_gives_the_members():
    model = stack(3)
    groups = split_model(model, lambda m: ([m[0]], [m[1]], iter([m[2]])))
    assert groups == [("body_1", [model[0]]), ("body_2", [model[1]]), ("head", [model[2]])]


def test_a_function_that_gives_no_group_is_an_error():
    with pytest.raises(ValueError, match="split"):
        split_model(stack(), lambda model: [])


@pytest.mark.parametrize("split", [[], [1, "fc"], [1.5]])
def test_anything_else_is_not_understood(split: list):
    with pytest.raises(ValueError, match=r"is not understood. Say where groups begin"):
        split_model(stack(), split)


def halves(name: str) -> tuple[nn.Module, list[list[str]]]:
    model = nn.Sequential(timm.create_model(name, num_classes=0), nn.Linear(2, 2))
    return model, [names_of(model, list(members)) for members in body_halves(model)]


def test_a_resnet_is_cut_behind_its_second_stage():
    _, (first, second, _) = halves("test_resnet")
    stages = [{n.split(".")[1] for n in names} for names in (first, second)]
    assert stages[0] >= {"layer1", "layer2"}
    assert stages[1] == {"layer3", "layer4"}


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout"]
)
def test_halves_and_head_hold_every_parameter_once(name: str):
    model, groups = halves(name)
    assert all(groups)
    assert sorted(chain.from_iterable(groups)) == sorted(
        name for name, _ in model.named_parameters()
    )


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_no_block_is_cut_in_two(name: str):
    _, (first, second, _) = halves(name)
    path = re.compile(r".*blocks\.\d+")
    blocks = [{m[0] for m in map(path.match, half) if m} for half in (first, second)]
    assert all(blocks)
    assert blocks[0].isdisjoint(blocks[1])


def test_a_backbone_that_timm_did_not_make_is_cut_in_the_middle_of_its_blocks():
    model = nn.Sequential(nn.Sequential(stack(2), stack(2)), nn.Linear(2, 2))
    first, second, head = (names_of(model, list(members)) for members in body_halves(model))
    assert {n[:3] for n in first} == {"0.0"}
    assert {n[:3] for n in second} == {"0.1"}
    assert head == ["1.weight", "1.bias"]


def test_a_backbone_of_one_block_has_no_halves():
    with pytest.raises(ValueError, match="the backbone Linear has no two blocks"):
        body_halves(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
