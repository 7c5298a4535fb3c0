"""Activation maps: where the class was seen, in every kind of backbone."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support import copy_of, same_state, tiny_learner
from torch import nn

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.inference.activation_maps import Layout, find_layer, grad_cam, layout_of


class Brightness(nn.Module):
    """Class 1 is as probable as the image is bright, by place."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
        with torch.no_grad():
            weight = torch.tensor([[0.0] * 3, [1.0] * 3])
            self.backbone[1].weight.copy_(weight[:, :, None, None])
            self.backbone[1].bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images).mean(dim=(2, 3))


def test_the_map_is_where_the_class_is() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, 12:, :4] = 1.0
    values = grad_cam(Brightness(), "backbone", image, 1, nn.Identity())
    assert values.shape == (16, 16)
    assert (values.max(), values.min()) == (1.0, 0.0)
    assert values[13:, :3].min() > 0.5
    assert values[:8].max() == values[:, 8:].max() == 0


def test_what_does_not_speak_for_a_class_leaves_no_map() -> None:
    assert grad_cam(Brightness(), "backbone", torch.ones(1, 3, 16, 16), 0, nn.Identity()).max() == 0


@pytest.mark.parametrize("kind", ["first", "last", "tokens"])
def test_a_layout_is_a_way_there_and_back(kind: str) -> None:
    shape = {"first": (2, 5, 3, 3), "last": (2, 3, 3, 5), "tokens": (2, 11, 5)}[kind]
    output = torch.randn(shape)
    layout = layout_of(output, 2)
    assert layout == Layout(kind, 2 if kind == "tokens" else 0)
    values = layout.to_map(output)
    assert values.shape == (2, 5, 3, 3)
    assert torch.equal(layout.from_map(values, output), output)


def test_tokens_lie_in_rows() -> None:
    output = torch.arange(10.0)[None, :, None]
    assert Layout("tokens", 1).to_map(output)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert layout_of(output, None) == Layout("tokens", 1)
    assert layout_of(torch.zeros(1, 12, 4), 1) is None
    # 2 x 4 places of an image that is twice as wide as high, behind a class token
    tokens = torch.arange(9.0).view(1, 9, 1)
    layout = layout_of(tokens, 1, aspect=0.5)
    assert layout is not None
    assert layout.to_map(tokens)[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert layout_of(tokens, None, aspect=0.5) == layout
    assert layout_of(torch.zeros(1, 4), None) is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_resnet", r"layer4"),
        ("test_efficientnet", r"bn2|blocks.*"),
        ("test_convnext", r"stages.*"),
        ("test_vit", r"blocks\.5\.norm1"),  # after it the class token alone counts
        ("test_vit2", r"blocks\.7\.norm2"),
        ("test_vit3", r"norm"),
        ("swin_tiny_patch4_window7_224", r"norm"),
    ],
)
def test_every_kind_of_backbone_has_a_layer(name: str, layer: str) -> None:
    options = {"img_size": 64} if "swin" in name or "vit" in name else {}
    if "swin" in name:
        options |= {"window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 16}
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **options).eval()
    model = nn.Sequential()
    model.add_module("backbone", backbone)
    model.add_module("head", nn.Linear(backbone.num_features, 3))
    size = 64 if options else backbone.default_cfg["input_size"][-1]
    image = torch.randn(1, 3, size, size, requires_grad=True)
    found = find_layer(model, backbone, image, 1, nn.Identity())
    assert re.fullmatch(layer, found.removeprefix("backbone.")), found
    values = grad_cam(model, found, image.detach(), 1, nn.Identity())
    assert values.shape == (size, size)
    assert values.min() >= 0
    assert values.max() <= 1


def test_a_learner_shows_where(trained: Learner, photos: Path) -> None:
    before = copy_of(trained.model.state_dict())
    modes = [module.training for module in trained.model.modules()]
    item = photos / "red" / "000.jpg"
    found = trained.activation_map(item)
    assert found.target == trained.predict(item).label
    assert found.values.shape == found.image.shape[:2] == (32, 32)
    assert found.image[:, :, 0].mean() > found.image[:, :, 2].mean() + 0.3  # red as it was read
    assert trained.activation_map(item, "blue").target == trained.activation_map(item, 0).target
    assert [np.shape(a.images[0].get_array())[:2] for a in found.plot().axes[:2]] == [(32, 32)] * 2
    assert same_state(before, trained.model.state_dict())
    assert [module.training for module in trained.model.modules()] == modes
    assert all(p.grad is None for p in trained.model.parameters())


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_the_score_is_what_predict_says(photos: Path, task: str) -> None:
    items = sorted(photos.rglob("*.jpg"))
    labels = {
        "single_label": [path.parent.name for path in items],
        "multi_label": [[path.parent.name] for path in items],
        "regression": [float(i) for i in range(len(items))],
    }
    data = ImageDataLoaders.from_lists(items, labels[task], task=task, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, precision="fp32")
    if task == "single_label":
        assert learner.calibrate() != 1
    said = learner.predict(items[0])
    found = learner.activation_map(items[0])
    if task == "regression":
        assert found.value == pytest.approx(said.values["target"], rel=1e-4)
        assert f"'target' with value {found.value:.4g}, " in repr(found)
        title = found.plot().get_suptitle()
        assert title.startswith(f"what raises target ({found.value:.4g}), in ")
    else:
        assert found.probability == pytest.approx(said.probabilities[found.target], abs=1e-5)
        assert found.probability == max(said.probabilities.values()) or task == "single_label"


def test_frozen_models_have_maps_too(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_vit", weights=None, progress=False)
    learner.freeze()
    found = learner.activation_map(photos / "red" / "000.jpg")
    assert found.layer.startswith("backbone.")


def test_mistaken_names_are_errors(trained: Learner, photos: Path) -> None:
    item = photos / "red" / "000.jpg"
    with pytest.raises(ValueError, match="target='rde' is no class; did you mean 'red'"):
        trained.activation_map(item, "rde")
    with pytest.raises(ValueError, match=r"target must be .* at most 2, got 3"):
        trained.activation_map(item, 3)
    with pytest.raises(
        ValueError, match=r"no layer 'backbone.block'; did you mean 'backbone.blocks'"
    ):
        trained.activation_map(item, layer="backbone.block")
    with pytest.raises(ValueError, match=r"layer 'head' gives \[1, 3\], which is no map"):
        trained.activation_map(item, layer="head")


def test_a_model_without_a_backbone_may_name_a_layer() -> None:
    with pytest.raises(ValueError, match=r"no submodule 'backbone'.*or pass layer="):
        tiny_learner().activation_map(torch.zeros(4))


def test_without_captum_the_extra_is_named(
    trained: Learner, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ModuleNotFoundError, match=r"finetune-vision\[explain\]"):
        trained.activation_map(photos / "red" / "000.jpg")
