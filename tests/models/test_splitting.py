"""The ways to say where layer groups begin."""

import re
from collections import OrderedDict
from itertools import chain

import pytest
import timm
import torch
from torch import nn

from finetune.models.backbone_set import BackboneSet, MemberInput
from finetune.models.partition import partition_parameters
from finetune.models.splitting import Split, split_model


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


def test_a_model_without_a_classifier_needs_split():
    with pytest.raises(ValueError, match=r"this model is a .* children.*split=\[5, 8\]"):
        split_model(stack(3))


@pytest.mark.parametrize("split", [None, "halves", 3])
def test_a_model_with_a_classifier_is_split_into_halves(split: Split):
    model = Named()
    groups = split_model(model, split)
    assert [name for name, _ in groups] == ["body_1", "body_2", "head"]
    owners = [{n.partition(".")[0] for n in names_of(model, list(m))} for _, m in groups]
    assert owners == [{"stem", "layer1"}, {"layer2"}, {"fc"}]


def test_a_model_made_without_classes_says_so():
    with torch.device("meta"):
        model = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(ValueError, match=r"VisionTransformer .* no classifier \(made without"):
        split_model(model, "stages")


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("backbone_head", ["backbone", "head"]),
        ("stages", ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("layers", ["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "head"]),
        (2, ["backbone", "head"]),
        (4, ["body_1", "body_2", "body_3", "head"]),
        (["layer3", "head"], ["start", "layer3", "head"]),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_resnet_in_every_way(split: Split, names: list[str], wrapped: bool):
    with torch.device("meta"):
        model = timm.create_model("resnet10t")
        if wrapped:
            model.reset_classifier(0)
            model = nn.Sequential(OrderedDict(backbone=model, head=nn.Linear(512, 2)))
        elif isinstance(split, list):
            split, names = ["layer3", "fc"], [*names[:-1], "fc"]
    assert [name for name, _ in split_model(model, split)] == names


def test_a_weight_of_the_head_that_is_tied_to_the_body_belongs_there():
    model = Named()
    model.fc.weight = model.stem.weight
    body, head = split_model(model, "backbone_head")
    assert "stem.weight" in names_of(model, list(body[1]))
    partition = partition_parameters(model, [body, head])
    assert list(partition["head"]) == ["fc.bias"]


@pytest.mark.parametrize("word", ["stage", "Layers", "backbone-head"])
def test_an_unknown_word_names_the_nearest(word: str):
    with pytest.raises(ValueError, match=f"split='{word}' is not understood; did you mean '"):
        split_model(Named(), word)


def test_a_number_of_groups_is_cut_at_equal_numbers_of_blocks():
    model = nn.Sequential(stack(7), nn.Linear(2, 2))
    groups = [names_of(model, list(members)) for _, members in split_model(model, 4)]
    assert [len(names) // 2 for names in groups] == [2, 2, 3, 1]


def test_more_groups_than_blocks_says_how_many_there_are():
    with pytest.raises(
        ValueError, match=r"7 groups need 6 blocks .* has 4 blocks; .* for split=5 groups"
    ):
        split_model(nn.Sequential(stack(4), nn.Linear(2, 2)), 7)


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_groups_is_an_error(count: int):
    with pytest.raises(ValueError, match=f"split={count} needs 2 groups or more"):
        split_model(Named(), count)


def test_names_are_given_to_paths():
    model = Named()
    names = {"fc": "head", "layer2": "late", "stem": "early", "layer1": "early"}
    groups = split_model(model, names)
    assert [name for name, _ in groups] == ["early", "late", "head"]
    assert names_of(model, list(groups[0][1]))[:3] == [
        *("stem.weight", "stem.bias", "layer1.0.weight"),
    ]


def test_names_may_be_given_to_parameters():
    model = nn.Sequential(nn.Linear(2, 2))
    groups = split_model(model, {"0.bias": "b", "0.weight": "a"})
    assert groups == [("a", [model[0].weight]), ("b", [model[0].bias])]


def test_names_that_leave_out_parameters_are_an_error():
    with pytest.raises(ValueError, match=r"leaves out 4 parameters: stem.weight, stem.bias, fc.we"):
        split_model(Named(), {"layer1": "a", "layer2": "b"})


def test_names_that_overlap_are_an_error():
    with pytest.raises(ValueError, match=r"names 'layer1' and 'layer1.0', which is in it"):
        split_model(Named(), {"layer1": "a", "layer1.0": "b"})


def test_names_for_an_unknown_path_name_the_nearest():
    with pytest.raises(ValueError, match=r"names module 'layer22'.*did you mean 'layer2"):
        split_model(Named(), {"layer22": "a"})


def test_paths_follow_the_order_in_which_modules_run():
    with torch.device("meta"):
        model = timm.create_model("twins_pcpvt_small")
    groups = split_model(model, ["patch_embeds.1", "head"])
    early = names_of(model, list(groups[0][1]))
    assert {name.split(".")[0] for name in early} == {"patch_embeds", "pos_block", "blocks"}
    assert not any(name.startswith(("blocks.1", "pos_block.1")) for name in early)


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


@pytest.mark.parametrize("split", [[], [1, "fc"], [1.5], 1.5, True, [True]])
def test_anything_else_is_not_understood(split: object):
    with pytest.raises(ValueError, match=r"is not understood. Say where groups begin"):
        split_model(stack(), split)  # type: ignore[arg-type]


def halves(name: str) -> tuple[nn.Module, list[list[str]]]:
    model = nn.Sequential(timm.create_model(name, num_classes=0), nn.Linear(2, 2))
    return model, [names_of(model, list(members)) for _, members in split_model(model, "halves")]


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
    groups = split_model(model, "halves")
    first, second, head = (names_of(model, list(members)) for _, members in groups)
    assert {n[:3] for n in first} == {"0.0"}
    assert {n[:3] for n in second} == {"0.1"}
    assert head == ["1.weight", "1.bias"]


def test_a_backbone_of_one_block_has_no_halves():
    with pytest.raises(
        ValueError, match=r"3 groups need 2 blocks and a head, .* has 1 block; ask for split=2"
    ):
        split_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "halves")


def test_a_path_inside_one_that_comes_later_in_the_list_is_out_of_order():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))), nn.ReLU())
    with pytest.raises(ValueError, match="must name modules in the order of the model"):
        split_model(model, ["0.1.0", "0.1"])


def test_a_group_that_comes_back_is_refused():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    with pytest.raises(ValueError, match=r"puts '2.weight' into group 'a', behind group 'b'"):
        split_model(model, {"0": "a", "1": "b", "2": "a"})


def side_by_side() -> tuple[nn.Sequential, list[nn.Sequential]]:
    """Two backbones in a set, and each of them alone, all with a head."""
    members = {"test_resnet": "test_resnet", "vit": "test_vit"}
    backbones = {path: timm.create_model(name, num_classes=0) for path, name in members.items()}
    inputs: list[nn.Module] = [MemberInput(32, [1.0] * 3, [0.0] * 3) for _ in backbones]
    head = nn.Linear(2, 2)
    alone = [nn.Sequential(OrderedDict(backbone=b, head=head)) for b in backbones.values()]
    backbone = BackboneSet(backbones, inputs)
    return nn.Sequential(OrderedDict(backbone=backbone, head=head)), alone


def identities(model: nn.Module, split: Split) -> list[set[int]]:
    partition = partition_parameters(model, split_model(model, split))
    return [set(map(id, parameters.values())) for parameters in partition.values()]


@pytest.mark.parametrize("split", ["halves", "backbone_head", 2, 3, 4])
def test_backbones_side_by_side_are_each_split_as_alone(split: Split):
    model, alone = side_by_side()
    first, second = (identities(member, split) for member in alone)
    assert identities(model, split) == [a | b for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("split", ["stages", "layers"])
def test_the_deepest_of_several_backbones_says_how_many_groups_there_are(split: Split):
    model, alone = side_by_side()
    groups = identities(model, split)
    by_member = [identities(member, split) for member in alone]
    assert len(groups) == max(map(len, by_member))
    for groups_alone in by_member:
        stem, last_block = groups_alone[0], groups_alone[-2]
        assert stem <= groups[0]
        assert last_block <= groups[-2]
        positions = []
        for group_alone in groups_alone:
            positions += [i for i, group in enumerate(groups) if group_alone <= group]
        assert len(positions) == len(groups_alone)  # none is torn apart
        assert positions == sorted(positions)
    assert [name for name, _ in split_model(model, split)][-2:] == [
        f"body_{len(groups) - 1}",
        "head",
    ]


def test_backbones_can_be_groups_of_their_own():
    model, _ = side_by_side()
    assert [name for name, _ in split_model(model, ["vit", "head"])] == ["start", "vit", "head"]


def test_more_groups_than_the_smallest_of_several_backbones_has_blocks_are_an_error():
    model, _ = side_by_side()
    with pytest.raises(ValueError, match=r"12 groups need 11 blocks.*the smallest of the backb"):
        split_model(model, 12)
