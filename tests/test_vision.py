"""vision_learner and load_learner, on synthetic images; and the accuracy on real photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import CLOTHING, needs_clothing, same_state

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights


def learner_on(
    photos: Path, *, seed: int = 0, size: int | None = 32, batch_size: int = 8, **options: object
) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=size, batch_size=batch_size, seed=seed)
    arguments: dict = {"weights": None, "progress": False, **options}
    return vision_learner(data, arguments.pop("backbone", "test_efficientnet"), **arguments)


def test_a_folder_becomes_a_classifier(photos: Path) -> None:
    learner = learner_on(photos, seed=3, head="linear", dropout=0.0, batch_size=4)
    learner.fine_tune(20, base_lr=8e-3, lr_mult=1)
    assert learner.validate()["accuracy"] == 1.0


def test_a_named_backbone_has_two_halves_and_a_head(photos: Path) -> None:
    assert learner_on(photos).layer_groups.names == ("body_1", "body_2", "head")


def test_the_table_of_groups_shows_parameters_and_rates(trained: Learner) -> None:
    table = str(trained.layer_groups)
    total = sum(p.numel() for p in trained.model.parameters())
    assert sum(group.parameter_count for group in trained.layer_groups) == total
    for text in ("body_1", "body_2", "head", "learning rate", "norm"):
        assert text in table


def test_the_planned_table_of_groups_fits_80_columns(photos: Path) -> None:
    groups = learner_on(photos, backbone="tf_efficientnet_lite0").layer_groups
    rates = {"frozen": [None, None, 2e-3], "unfrozen": [1e-5, 1e-4, 1e-3]}
    lines = groups.table(rates).text(notes=True).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["lr", "lr"]
    assert lines[1].split()[-2:] == ["frozen", "unfrozen"]


def test_predict_takes_a_path_an_image_an_array_and_a_tensor(
    photos: Path, trained: Learner, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    Image.open(photos / "red" / "000.jpg").save(path)
    image = Image.open(path)
    pixels = np.array(image)
    items = [path, str(path), image, pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    first, *others = (trained.predict(item) for item in items)
    assert first.probabilities.keys() == {"blue", "green", "red"}
    assert first.probability == max(first.probabilities.values())
    assert all(other == first for other in others)


def test_the_seed_decides_the_head_and_the_global_generator_does_not(photos: Path) -> None:
    torch.manual_seed(1)
    one = learner_on(photos)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two, other = learner_on(photos), learner_on(photos, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_state(one.model.state_dict(), two.model.state_dict())
    assert not same_state(one.model.state_dict(), other.model.state_dict())


def test_without_a_size_images_come_in_the_backbones_own(photos: Path) -> None:
    assert learner_on(photos, size=None).data.preprocessing.image_size == 160


def test_images_are_normalised_as_the_backbone_was_trained(photos: Path) -> None:
    preprocessing = learner_on(photos, backbone="tf_efficientnet_lite0").data.preprocessing
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_resnet"])
def test_other_families_train_export_and_predict_alike(
    photos: Path, tmp_path: Path, backbone: str
) -> None:
    learner = learner_on(photos, backbone=backbone, size=64)
    learner.fine_tune(1)
    learner.export(tmp_path / "model")
    image = photos / "red" / "000.jpg"
    ours, exported = learner.predict(image), load_learner(tmp_path / "model").predict(image)
    assert ours.probabilities == pytest.approx(exported.probabilities, abs=1e-5)


def test_an_unknown_backbone_gets_the_nearest_name(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"no backbone 'resnet_50'.*'resnet50'"):
        learner_on(photos, backbone="resnet_50")


def test_norm_train_moves_the_statistics_of_a_frozen_backbone(photos: Path) -> None:
    learner = learner_on(photos, norm="train")
    before = {n: b.clone() for n, b in learner.model.backbone.named_buffers() if "mean" in n}
    learner.freeze()
    learner.fit(1, 1e-3)
    after = dict(learner.model.backbone.named_buffers())
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_by_default_a_pretrained_backbone_keeps_its_statistics(
    photos: Path, tmp_path: Path
) -> None:
    weights = imagenet_weights(tmp_path / "weights.safetensors")
    learner = learner_on(photos, backbone=BACKBONE, weights=weights)
    assert [group.norm for group in learner.layer_groups] == ["eval", "eval", "follow"]
    before = {n: b.clone() for n, b in learner.model.backbone.named_buffers()}
    learner.fine_tune(1)
    assert same_state(before, dict(learner.model.backbone.named_buffers()))


@pytest.mark.slow
@needs_clothing
def test_accuracy_on_real_photos(tmp_path: Path) -> None:
    weights = imagenet_weights(tmp_path / "weights.safetensors")
    data = ImageDataLoaders.from_folder(CLOTHING, train="train", valid="validation", image_size=128)
    learner = vision_learner(data, BACKBONE, weights=weights)
    learner.fine_tune(1)
    assert learner.validate()["accuracy"] >= 0.80  # one seed; the mean of three is above 0.83


def test_checkpointed_activations_train_to_the_same_losses(photos: Path) -> None:
    losses = []
    for checkpointed in (False, True):
        learner = learner_on(photos, dropout=0.0, checkpoint_activations=checkpointed)
        learner.fit_one_cycle(1)
        losses.append([row.loss for row in learner.history.steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_an_exported_model_gives_its_backbone_to_another_learner(
    photos: Path, tmp_path: Path, head: str
) -> None:
    learner = learner_on(photos, head=head)
    learner.export(tmp_path / "model")
    for weights in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        other = learner_on(photos, seed=1, weights=weights)
        assert same_state(other.model.backbone.state_dict(), learner.model.backbone.state_dict())


def test_a_replaced_head_trains_and_predicts_and_is_not_exported(
    photos: Path, tmp_path: Path
) -> None:
    learner = learner_on(photos)
    width = learner.model.head[1].in_features
    learner.model.head = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(width, 3))
    before = learner.model.head[1].weight.detach().clone()
    learner.fine_tune(1)
    assert not torch.equal(learner.model.head[1].weight, before)
    assert learner.predict(photos / "red" / "000.jpg").label in learner.data.classes
    with pytest.raises(ValueError, match="layers of the model were replaced"):
        learner.export(tmp_path / "model")
