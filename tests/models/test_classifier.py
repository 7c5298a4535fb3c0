"""ImageClassifier and the description it can be rebuilt from."""

import json
from collections import OrderedDict

import pytest
import torch
from support import same_state
from torch import nn

from finetune.models.classifier import Architecture, ImageClassifier
from finetune.models.heads import HeadKind
from finetune.models.layer_groups import LayerGroups

TINY = Architecture("test_resnet", classes=3, image_size=32, head="linear", dropout=0.1)


def test_images_become_logits():
    model = TINY.build().eval()
    assert isinstance(model, ImageClassifier)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_the_head_is_the_one_asked_for():
    drop, linear = TINY.build().get_submodule("head")
    assert (drop.p, linear.out_features) == (0.1, 3)


def test_the_default_head_is_the_mlp():
    head = Architecture("test_resnet", classes=3, image_size=32).build().get_submodule("head")
    assert [type(layer) for layer in head][-2:] == [nn.Dropout, nn.Linear]
    assert len(head) == 7


def test_it_splits_itself_into_backbone_and_head():
    assert LayerGroups.from_model(TINY.build()).names == ("backbone", "head")


def test_the_architecture_survives_json():
    assert Architecture(**json.loads(json.dumps(TINY.to_dict()))) == TINY


def test_the_weights_fit_the_model_rebuilt_from_the_architecture():
    model = TINY.build()
    rebuilt = Architecture(**model.architecture.to_dict()).build()
    rebuilt.load_state_dict(model.state_dict())
    assert same_state(rebuilt.state_dict(), model.state_dict())


def test_given_weights_reach_the_backbone():
    state = TINY.build().get_submodule("backbone").state_dict()
    assert same_state(TINY.build(state).get_submodule("backbone").state_dict(), state)


def test_weights_by_name_are_for_one_backbone_as_for_several():
    state = TINY.build().get_submodule("backbone").state_dict()
    model = TINY.build({"test_resnet": state})
    assert same_state(model.get_submodule("backbone").state_dict(), state)


def test_an_unknown_head_is_an_error():
    with pytest.raises(ValueError, match="head must be one of 'mlp', 'linear'"):
        Architecture("test_resnet", 3, 32, head="conv").build()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "backbone", ["test_vit", "torchvision/squeezenet1_0", "torchvision/mnasnet0_5"]
)
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_its_source_makes_the_same_model(backbone: str, head: HeadKind) -> None:
    model = Architecture(backbone, classes=3, image_size=64, head=head).build().eval()
    names: dict[str, nn.Module] = {}
    exec(model.source(), names)
    same = nn.Sequential(OrderedDict(backbone=names["backbone"], head=names["head"])).eval()
    same.load_state_dict(dict(model.state_dict()))  # without versions, as safetensors has it
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(same(images), model(images))
    assert "finetune" not in model.source()


SET = Architecture(("test_resnet", "test_vit"), 3, 64, "linear", member_sizes=(32, 64))


def test_several_backbones_survive_json_and_are_built_in_their_own_sizes():
    rebuilt = Architecture(**json.loads(json.dumps(SET.to_dict())))
    assert rebuilt == SET
    model = rebuilt.build().eval()
    assert [i.image_size for i in model.get_submodule("backbone").inputs] == [32, 64]
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_what_only_several_backbones_have_is_not_written_for_one():
    assert "member_sizes" not in TINY.to_dict()


def test_without_a_size_each_backbone_has_its_own_and_images_the_largest():
    architecture = Architecture.create(["test_resnet", "torchvision/vit_b_32"], 3)
    assert architecture.member_sizes == (160, 224)
    assert architecture.image_size == 224


def test_a_size_that_is_asked_for_is_that_of_all_that_can_take_it():
    names = ["test_resnet", "resnet18", "torchvision/vit_b_32"]
    assert Architecture.create(names, 3, image_size=96).member_sizes == (96, 96, 224)


def test_a_list_of_one_backbone_is_that_backbone():
    assert Architecture.create(["test_resnet"], 3, image_size=32) == Architecture.create(
        "test_resnet", 3, image_size=32
    )


@pytest.mark.parametrize(("backbone", "sizes"), [("a", (32,)), (("a", "b"), (32,))])
def test_another_number_of_sizes_than_of_backbones_is_an_error(
    backbone: str | tuple[str, ...], sizes: tuple[int, ...]
):
    with pytest.raises(ValueError, match=r"backbones need \d member_sizes, got \[32\]"):
        Architecture(backbone, 3, 32, member_sizes=sizes)
