"""Several backbones side by side, from images to an exported folder."""

import json
from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state
from torch import nn

from finetune import Callback, ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.models.backbones import normalisation_of
from finetune.models.classifier import Architecture
from finetune.models.heads import HeadKind
from finetune.training.events import Precompute

NAMES = ("test_vit", "test_resnet")


def learner_on(photos: Path, *, head: HeadKind = "mlp") -> Learner:
    """A transformer that is built for 64 pixels, and a network that gets half of them."""
    data = ImageDataLoaders.from_folder(photos, image_size=64, batch_size=8)
    architecture = Architecture(NAMES, 3, 64, head, member_sizes=(64, 32))
    torch.manual_seed(0)
    model = architecture.build()
    data = data.for_backbone(64, *normalisation_of(model.get_submodule("backbone")))
    loss = nn.CrossEntropyLoss()
    return Learner(data, model, loss=loss, metrics="accuracy", split="halves", progress=False)


class Precomputes(Callback):
    """How many images went through the frozen layers in order to keep their features."""

    def __init__(self) -> None:
        self.done = 0

    def on_precompute(self, event: Precompute) -> None:
        self.done = event.done


@pytest.fixture(scope="module")
def together(photos: Path) -> Learner:
    """Trained a little; do not change it."""
    learner = learner_on(photos)
    learner.fine_tune(1, freeze_epochs=8)
    return learner


def test_both_learn_and_are_split_alike(together: Learner) -> None:
    assert together.layer_groups.names == ("body_1", "body_2", "head")
    moved = {row.module for row in together.trainer.origin.movement() if row.distance > 0}
    for name in NAMES:
        assert any(module.startswith(f"backbone.{name}.") for module in moved)
    assert together.validate()["accuracy"] == 1.0


def test_the_table_of_groups_says_where_each_begins_and_ends(together: Learner) -> None:
    table = together.layer_groups._repr_html_()
    assert "backbone.test_resnet.conv1.0 .. backbone.test_resnet.layer2" in table


def test_both_are_frozen_with_their_features_kept(photos: Path) -> None:
    learner, counter = learner_on(photos), Precomputes()
    before = copy_of(learner.model.get_submodule("backbone").state_dict())
    learner.freeze()
    learner.fit(1, 1e-3, callbacks=[counter])
    assert counter.done > 0
    assert same_state(learner.model.get_submodule("backbone").state_dict(), before)


def test_features_are_as_wide_as_all_together(together: Learner) -> None:
    widths = []
    for name in NAMES:
        widths.append(together.model.get_submodule(f"backbone.{name}").num_features)
    assert together.features().values.shape[1] == sum(widths)


@pytest.mark.parametrize("stop", [1, 5])  # in the frozen epochs, and behind them
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    photos: Path, tmp_path: Path, stop: int
) -> None:
    whole, first, second = (learner_on(photos) for _ in range(3))
    whole.fine_tune(1, freeze_epochs=2)
    first.fine_tune(1, freeze_epochs=2, callbacks=[StopAt(stop)])
    first.save(tmp_path / "run.ckpt")
    second.load(tmp_path / "run.ckpt")
    second.resume()
    assert len(second.history.steps) == len(whole.history.steps) == 6
    assert same_state(second.model.state_dict(), whole.model.state_dict())


def test_a_probe_is_of_the_features_of_both(photos: Path) -> None:
    learner = learner_on(photos)
    probe = learner.probe()
    assert probe.weight.shape[1] == learner.features().values.shape[1]
    assert learner.validate()["accuracy"] == 1.0


def test_a_frozen_first_half_is_that_of_both(photos: Path) -> None:
    learner = learner_on(photos)
    learner.freeze_to(1)
    for name in NAMES:
        parameters = list(learner.model.get_submodule(f"backbone.{name}").parameters())
        assert not parameters[0].requires_grad
        assert parameters[-1].requires_grad


def test_an_exported_set_predicts_the_same(together: Learner, photos: Path, tmp_path: Path) -> None:
    together.export(tmp_path / "model")
    image = photos / "red" / "000.jpg"
    loaded = load_learner(tmp_path / "model")
    assert loaded.predict(image).probabilities == together.predict(image).probabilities
    architecture = json.loads((tmp_path / "model" / "model.json").read_text())["architecture"]
    assert architecture["backbone"] == list(NAMES)
    assert architecture["member_sizes"] == [64, 32]


def test_its_card_names_both(together: Learner, tmp_path: Path) -> None:
    together.export(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# test_vit + test_resnet, 3 classes" in card
    assert "`test_resnet` (images of 32 x 32 pixels) side by side" in card


def test_an_exported_set_gives_its_backbones_to_another_learner(
    together: Learner, photos: Path, tmp_path: Path
) -> None:
    together.export(tmp_path / "model")
    data = ImageDataLoaders.from_folder(photos, image_size=64, batch_size=8)
    other = vision_learner(data, NAMES, weights=tmp_path / "model", progress=False)
    backbone, expected = (x.model.get_submodule("backbone") for x in (other, together))
    assert same_state(backbone.state_dict(), expected.state_dict())


def test_the_map_of_a_class_is_that_of_both(together: Learner, photos: Path) -> None:
    image = photos / "red" / "000.jpg"
    both = together.activation_map(image)
    layers = both.layer.split(", ")
    assert [layer.split(".")[1] for layer in layers] == list(NAMES)
    maps = [together.activation_map(image, layer=layer).values for layer in layers]
    mean = sum(maps) / 2
    assert both.values == pytest.approx(mean / max(mean.max(), 1e-12), abs=1e-6)


@pytest.mark.parametrize("option", [{"head": "linear"}, {"checkpoint_activations": True}])
def test_the_options_of_one_backbone_are_those_of_several(photos: Path, option: dict) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, NAMES, weights=None, progress=False, **option)
    learner.fit_one_cycle(1)
    assert learner.history.epochs[-1].train_loss > 0


def test_one_that_can_not_checkpoint_activations_is_named(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    names = ["test_vit", "torchvision/squeezenet1_1"]
    with pytest.raises(ValueError, match="activations of SqueezeNet can't be checkpointed"):
        vision_learner(data, names, weights=None, checkpoint_activations=True)


def test_several_backbones_are_checked_before_anything_is_made(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    with pytest.raises(ValueError, match=r"no backbone 'resnet_50'.*'resnet50'"):
        vision_learner(data, ["test_vit", "resnet_50"])
