"""Backbones that are given as functions or as models of timm and torchvision."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.models.backbone_objects import name_of_model


@pytest.fixture
def data(photos: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)


def learner_of(data: ImageDataLoaders, backbone: object, **options: object) -> Learner:
    return vision_learner(data, backbone, progress=False, device="cpu", **options)  # type: ignore


def test_a_function_stands_for_its_name(data: ImageDataLoaders) -> None:
    for factory, name in {
        torchvision.models.resnet18: "torchvision/resnet18",
        timm.models.resnet18: "resnet18",
    }.items():
        learner = learner_of(data, factory, weights=None)
        assert learner.model.architecture.backbone == name  # type: ignore[union-attr]


def test_several_backbones_may_be_functions(data: ImageDataLoaders) -> None:
    learner = learner_of(data, [timm.models.resnet18, "test_vit"], weights=None)
    assert learner.model.architecture.backbones == ("resnet18", "test_vit")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.squeezenet1_1(num_classes=7),
        lambda: timm.create_model("test_efficientnet", num_classes=7),
        lambda: timm.create_model("test_resnet", num_classes=0),
    ],
)
def test_a_model_brings_its_weights_and_gets_our_head(data: ImageDataLoaders, make) -> None:
    given = make()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    learner = learner_of(data, given)
    kept = learner.model.get_submodule("backbone").state_dict()
    assert len(kept) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.items())
    learner.fine_tune(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


def test_what_replaced_the_classifier_is_left_behind(data: ImageDataLoaders) -> None:
    given = torchvision.models.resnet18()
    given.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 5))
    learner = learner_of(data, given)
    assert learner.model.get_submodule("head")[-1].out_features == len(data.classes)


def test_a_model_can_be_exported_and_read_back(data: ImageDataLoaders, tmp_path: Path) -> None:
    learner = learner_of(data, timm.create_model("test_vit"), head="linear")
    learner.export(tmp_path / "model")
    item = data.valid_examples.items[0]
    expected = learner.predict(item).probabilities
    answer = load_learner(tmp_path / "model").predict(item).probabilities
    assert answer == pytest.approx(expected, abs=1e-5)


def test_a_model_is_normalised_as_it_says(data: ImageDataLoaders) -> None:
    given = timm.create_model("test_resnet")
    given.pretrained_cfg = {**given.pretrained_cfg, "mean": (0.1, 0.2, 0.3)}
    learner = learner_of(data, given)
    assert learner.data.preprocessing.mean == (0.1, 0.2, 0.3)  # type: ignore[attr-defined]


def test_sizes_of_one_family_are_told_apart() -> None:
    for name in ("resnet34", "wide_resnet50_2", "vgg11_bn", "regnet_x_800mf", "mobilenet_v3_large"):
        with torch.device("meta" if "regnet" not in name else "cpu"):
            model = torchvision.models.get_model(name, num_classes=3)
        assert name_of_model(model) == f"torchvision/{name}"


def test_a_model_of_ones_own_is_for_learner(data: ImageDataLoaders) -> None:
    with pytest.raises(ValueError, match=r"is a Sequential, of neither .* write Learner\(data"):
        learner_of(data, nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)))
    with pytest.raises(ValueError, match="is no function of timm or torchvision"):
        learner_of(data, len)


def test_a_model_with_other_layers_than_its_name_makes_is_refused(data: ImageDataLoaders) -> None:
    given = timm.create_model("test_vit", drop_path_rate=0.1)
    with pytest.raises(ValueError, match=r"DropPath.* where .*Identity.* is expected; pass the na"):
        learner_of(data, given)


@pytest.mark.parametrize("classes", [0, 5])
def test_a_model_without_a_classifier_of_its_own_may_have_one(classes: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("eva02_tiny_patch14_224", num_classes=classes)
    assert name_of_model(model) == "eva02_tiny_patch14_224.mim_in22k"


def test_auxiliary_classifiers_do_not_matter() -> None:
    with torch.device("meta"):
        model = torchvision.models.googlenet(init_weights=False)
    assert name_of_model(model) == "torchvision/googlenet"


def test_weights_beside_a_model_are_refused(data: ImageDataLoaders) -> None:
    with pytest.raises(ValueError, match="this one is a model with weights of its own"):
        learner_of(data, timm.create_model("test_vit"), weights=None)
