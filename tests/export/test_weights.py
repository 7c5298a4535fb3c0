"""Weights under timm's own names where timm's model computes the same, under ours elsewhere."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.export import weights
from finetune.models.classifier import Architecture
from finetune.models.heads import HeadKind

SIZE = 64
BACKBONES = {
    "test_resnet": "fc",
    "test_efficientnet": "classifier",
    "test_vit": "head",
    "test_convnext": "head.fc",
}


def linear_learner(photos: Path, backbone: str) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=SIZE, batch_size=8)
    return vision_learner(data, backbone, weights=None, head="linear", progress=False)


def architecture(backbone: str, head: HeadKind = "linear", *, scaled: bool = False) -> Architecture:
    return Architecture(backbone, 3, SIZE, head, scaled=scaled)


def outputs(model: nn.Module) -> Tensor:
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = model.cpu().eval()(images)
    return found


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_line_of_the_card_makes_the_model(
    photos: Path, tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = linear_learner(photos, backbone)
    learner.export(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    (line,) = re.findall(r"^model = (timm\..*)$", Path("README.md").read_text(), re.MULTILINE)
    torch.testing.assert_close(outputs(eval(line)), outputs(learner.model))


def test_weights_with_timms_names_come_back(photos: Path, tmp_path: Path) -> None:
    learner = linear_learner(photos, "test_resnet")
    learner.export(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert names == timm.create_model("test_resnet").state_dict().keys()
    loaded = load_learner(tmp_path / "model").model
    torch.testing.assert_close(outputs(loaded), outputs(learner.model))


@pytest.mark.parametrize(("backbone", "name"), BACKBONES.items())
def test_a_linear_head_is_timms_classifier(backbone: str, name: str) -> None:
    assert weights.classifier_of(architecture(backbone)) == name


@pytest.mark.parametrize(
    "made",
    [
        architecture("test_resnet", head="mlp"),
        architecture("test_resnet", scaled=True),
        architecture("torchvision/resnet18"),
        architecture("deit_tiny_distilled_patch16_224"),
    ],
    ids=["mlp", "regression", "torchvision", "two classifiers"],
)
def test_other_heads_are_not(made: Architecture) -> None:
    assert weights.classifier_of(made) is None


class Normed(nn.Module):
    """With a classifier of its own it normalises the features, without it does not."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "fc"}
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).mean(dim=(2, 3))
        if isinstance(self.fc, nn.Linear):
            features = nn.functional.normalize(features)
        return self.fc(features)


def test_a_classifier_that_gets_other_features_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda name, num_classes: Normed(num_classes))
    weights._classifier.cache_clear()
    assert weights.classifier_of(architecture("test_resnet")) is None
    weights._classifier.cache_clear()


def test_asking_leaves_the_random_numbers_alone() -> None:
    weights._classifier.cache_clear()
    before = torch.get_rng_state()
    weights.classifier_of(architecture("test_resnet"))
    assert torch.equal(torch.get_rng_state(), before)


def tied_model() -> nn.Sequential:
    backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten())
    backbone[1].weight = backbone[0].weight
    head = nn.Sequential(nn.Dropout(), nn.Linear(3 * SIZE * SIZE, 2))
    both = OrderedDict(backbone=backbone, head=head)
    return nn.Sequential(both).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("classifier", ["fc", "head", None])
def test_tied_weights_and_layouts_survive(tmp_path: Path, classifier: str | None) -> None:
    first, second = tied_model(), tied_model()
    weights.save(first, tmp_path / "w.safetensors", classifier)
    weights.load(second, tmp_path / "w.safetensors")
    assert torch.equal(outputs(first), outputs(second))


def test_timm_finds_a_tied_weight_under_each_name(tmp_path: Path) -> None:
    weights.save(tied_model(), tmp_path / "w.safetensors", "fc")
    names = ["0.bias", "0.weight", "1.bias", "1.weight", "fc.bias", "fc.weight"]
    assert sorted(load_file(tmp_path / "w.safetensors")) == names
