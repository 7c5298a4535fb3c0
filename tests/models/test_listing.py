"""The list of backbones, counted without their weights."""

from typing import Any

import pytest
import timm
import torchvision

from finetune.models.listing import backbone_names, describe, parameters_of


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "resnet18"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    assert parameters_of(name) == sum(p.numel() for p in model.parameters())


def test_patterns_and_plain_words() -> None:
    assert "resnet18" in backbone_names("resnet1?")
    assert "seresnet50" in backbone_names("resnet50")
    assert "torchvision/resnet50" in backbone_names("torchvision/*")


def test_torchvision_models_are_described_too() -> None:
    assert describe("torchvision/resnet18") == (
        "torchvision/resnet18", parameters_of("resnet18"), 224, True
    )  # fmt: skip


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="there is no backbone"):
        describe("resnet1800")


def test_without_weights_a_model_of_torchvision_is_not_pretrained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights_of = torchvision.models.get_model_weights

    def weights_but_of_alexnet(name: str) -> Any:
        return [] if name == "alexnet" else weights_of(name)

    monkeypatch.setattr(torchvision.models, "get_model_weights", weights_but_of_alexnet)
    names = backbone_names("torchvision/*", pretrained=True)
    assert "torchvision/alexnet" not in names
    assert "torchvision/resnet18" in names
    assert "torchvision/alexnet" in backbone_names("torchvision/*")
