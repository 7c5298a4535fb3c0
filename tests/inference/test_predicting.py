"""Predictions of a learner: the evaluation's numbers, by example."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support import copy_of, same_state, tiny_learner, tiny_pairs
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset

from finetune import Batch, DataLoaders, ImageDataLoaders, Learner, vision_learner
from finetune.tasks import SingleLabel, SquaredError, resolve_task


@pytest.fixture(scope="module")
def learner(photos: Path) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    found = vision_learner(data, "test_resnet", weights=None, progress=False, precision="fp32")
    found.fit(1, 1e-3)
    return found


def test_loss_and_accuracy_are_those_of_validate(learner: Learner) -> None:
    found, results = learner.predictions(), learner.validate()
    assert found.losses.mean() == pytest.approx(results["loss"], rel=1e-5)
    assert found.accuracy == pytest.approx(results["accuracy"])


def test_rows_are_named_by_their_files_and_are_what_predict_says(learner: Learner) -> None:
    row = learner.predictions()[3]
    assert Path(row.item).parent.name == row.target
    expected = learner.predict(row.item)
    assert row.predicted == expected.label
    assert row.probabilities.tolist() == pytest.approx(
        list(expected.probabilities.values()), abs=1e-4
    )


def test_a_training_loader_is_read_whole_and_in_order(learner: Learner) -> None:
    found = learner.predictions(learner.data.train)
    assert list(found.items) == [str(item) for item in learner.data.train_examples.items]
    assert (found.targets == learner.data.train_examples.labels.numpy()).all()
    assert len(found) > 8 * len(learner.data.train)  # training drops the last, short batch


def test_another_loaders_labels_count_in_the_learners_classes(
    learner: Learner, photos: Path, tmp_path: Path
) -> None:
    for name in ("green", "red"):  # without blue, red would be class 1
        shutil.copytree(photos / name, tmp_path / name)
    other = ImageDataLoaders.from_folder(tmp_path, image_size=32, batch_size=8)
    for found in (learner.predictions(other.train), learner.tta(1, other.train)):
        assert found.classes == ("blue", "green", "red")
        assert [found[i].target for i in range(len(found))] == [
            Path(item).parent.name for item in found.items
        ]
    (tmp_path / "red").rename(tmp_path / "rde")
    mistaken = ImageDataLoaders.from_folder(tmp_path, image_size=32, batch_size=8)
    with pytest.raises(ValueError, match=r"no class 'rde'.*did you mean 'red'"):
        learner.predictions(mistaken.train)


def test_another_loaders_images_come_in_the_learners_size(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, batch_size=8)  # presized for 224 px
    learner = vision_learner(data, "test_vit", weights=None, progress=False, precision="fp32")
    expected = learner.predictions()  # 160 px
    assert learner.predictions(data.valid).probabilities == pytest.approx(expected.probabilities)
    again = ImageDataLoaders.from_folder(photos, batch_size=8)
    found = learner.predictions(again.valid)
    assert found.items == expected.items
    assert found.probabilities == pytest.approx(expected.probabilities)


def test_any_torch_loader_is_read_in_its_order() -> None:
    pairs = tiny_pairs(50, seed=5)
    learner = tiny_learner()
    found = learner.predictions(DataLoader(pairs, 16))
    assert found.items == tuple(range(50))
    assert (found.targets == pairs.tensors[1].numpy()).all()
    learner.model.eval()
    expected = learner.model(pairs.tensors[0]).softmax(1).detach().numpy()
    assert found.probabilities == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="have no images"):
        found.show_results()


def test_nothing_of_the_learner_changes(learner: Learner) -> None:
    before = copy_of(learner.model.state_dict())
    modes = [module.training for module in learner.model.modules()]
    state = torch.get_rng_state()
    learner.predictions(learner.data.train)
    learner.tta(1)
    assert same_state(before, learner.model.state_dict())
    assert [module.training for module in learner.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 16, "shuffle": True}, "RandomSampler changes the order"),
        ({"batch_size": 16, "drop_last": True}, "drop_last=True leaves out"),
        (
            {"batch_sampler": BatchSampler(SubsetRandomSampler(range(50)), 16, True)},
            "SubsetRandomSampler changes the order.*drop_last=True",
        ),
    ],
)
def test_a_loader_that_is_not_in_order_is_told(options: dict, told: str) -> None:
    learner = tiny_learner()
    with pytest.warns(UserWarning, match=told):
        learner.predictions(DataLoader(tiny_pairs(50), **options))


def test_a_torch_loader_gives_images_that_are_ready_or_in_uint8(learner: Learner) -> None:
    data, expected = learner.data, learner.predictions().probabilities
    raw = torch.cat([batch.inputs for batch in data.valid.epoch(0, 0)])
    ready = data.inputs(data.valid_examples.items, torch.device("cpu"))
    edge = (raw.shape[-1] - 32) // 2
    cropped = raw[:, :, edge : edge + 32, edge : edge + 32]
    for images in (ready, raw, cropped):
        loader = DataLoader(TensorDataset(images, data.valid_examples.labels), 4)
        assert learner.predictions(loader).probabilities == pytest.approx(expected, abs=1e-5)
        assert len(learner.features(loader)) == len(expected)
    with pytest.raises(ValueError, match=r"drawn by the images' numbers.*learner\.data\.valid"):
        learner.tta(2, loader)
    labels = data.valid_examples.labels
    with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\], got \[4, 3, 34, 34\]"):
        learner.predictions(DataLoader(TensorDataset(raw[:, :, 1:-1, 1:-1], labels), 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_the_learners_own(smoothing: float) -> None:
    weight = torch.tensor([1.0, 3.0])
    outputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    options = {"weight": weight, "label_smoothing": smoothing}
    expected = nn.functional.cross_entropy(outputs, targets, reduction="none", **options)
    function = partial(nn.functional.cross_entropy, **options)
    module = nn.CrossEntropyLoss(**options)
    for loss in (function, module):
        assert torch.equal(SingleLabel().example_losses(loss, outputs, targets), expected)
    assert module.reduction == "mean"


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("multi_label", F.binary_cross_entropy_with_logits),
        ("multi_label", nn.BCEWithLogitsLoss(pos_weight=torch.tensor([5.0, 1.0]))),
        (
            "multi_label",
            partial(F.binary_cross_entropy_with_logits, weight=torch.tensor([3.0, 1.0])),
        ),
        ("regression", SquaredError(torch.tensor([3.0, 30.0]))),
        ("regression", nn.MSELoss()),
        ("regression", F.smooth_l1_loss),
    ],
)
def test_losses_of_labels_and_values_are_the_learners_own(
    of_task: Callable[..., Learner], task: str, loss: Callable
) -> None:
    learner = of_task(task, loss)
    expected = learner.validate()["loss"]
    assert learner.predictions().losses.mean() == pytest.approx(expected, rel=1e-5)
    outputs, targets = torch.randn(6, 2), torch.ones(6, 2)
    alone = [float(loss(outputs[i : i + 1], targets[i : i + 1])) for i in range(6)]
    losses = resolve_task(task).example_losses(loss, outputs, targets)
    assert losses.tolist() == pytest.approx(alone)


def test_other_losses_are_shown_as_cross_entropy() -> None:
    outputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    expected = nn.functional.cross_entropy(outputs, targets, reduction="none")
    own = SingleLabel().example_losses(nn.functional.multi_margin_loss, outputs, targets)
    assert torch.equal(own, expected)


def test_other_tasks_are_an_error() -> None:
    several = TensorDataset(torch.randn(8, 4), torch.ones(8, 2))
    learner = Learner(
        DataLoaders(DataLoader(several, 4), DataLoader(several, 4)),
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)),
        loss=nn.functional.binary_cross_entropy_with_logits,
        progress=False,
    )
    with pytest.raises(ValueError, match=r"one class per example.*float32 \[4, 2\].*pass task="):
        learner.predictions()


@pytest.mark.parametrize("wrong", [-1, 2])
def test_what_is_no_class_number_is_told_before_the_loss(wrong: int) -> None:
    pairs = tiny_pairs(8)
    pairs.tensors[1][3] = wrong
    with pytest.raises(ValueError, match=f"class numbers from 0 to 1, .*got {wrong}"):
        tiny_learner().predictions(DataLoader(pairs, 4))


def test_class_numbers_may_be_of_any_whole_type() -> None:
    inputs, targets = tiny_pairs(8).tensors
    learner = tiny_learner()
    expected = learner.predictions(DataLoader(TensorDataset(inputs, targets), 4))
    small = learner.predictions(DataLoader(TensorDataset(inputs, targets.int()), 4))
    assert small.losses == pytest.approx(expected.losses)


def test_one_process_of_several_may_look_alone(
    trained: Learner, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(*args: object) -> None:
        raise AssertionError("waits for the others")

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "broadcast", waits)
    monkeypatch.setattr(dist, "all_reduce", waits)
    valid = trained.data.valid
    assert len(trained.tta(1)) == len(trained.features()) == len(valid.targets)
    assert len(trained.predictions(trained.data.train)) == len(trained.data.train.targets)
    assert len(trained.suspicious_labels()) >= 0
    assert trained.activation_map(photos / "red" / "000.jpg").values.shape == (32, 32)


def test_without_validation_a_loader_is_asked_for() -> None:
    data = DataLoaders(DataLoader(tiny_pairs(), 4), classes=["no", "yes"])
    with pytest.raises(ValueError, match="no validation data; pass a loader"):
        tiny_learner(data=data).predictions()


# --- test-time augmentation


def test_tta_is_the_mean_over_the_views(learner: Learner) -> None:
    data, model = learner.data, learner.model
    model.eval()
    total = 0
    with torch.no_grad():
        for view in (None, 0, 1):
            batches = [data.prepare(raw, view) for raw in data.valid.epoch(data.seed, 0)]
            total = total + torch.cat([model(batch.inputs) for batch in batches]).softmax(1)
    found = learner.tta(2)
    assert found.probabilities == pytest.approx((total / 3).numpy(), abs=1e-4)
    assert not np.allclose(found.probabilities, learner.predictions().probabilities, atol=1e-4)
    own = found.probabilities[np.arange(len(found)), found.targets]
    assert found.losses == pytest.approx(-np.log(own), abs=1e-4)
    with pytest.raises(ValueError, match="views must be a whole number of at least 1, got 0"):
        learner.tta(0)


class Moved(DataLoaders):
    """Points that every random view moves a little."""

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        return batch if view is None else replace(batch, inputs=batch.inputs + 0.1 * (view + 1))


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_tta_of_labels_and_values_is_the_mean_over_the_views(
    of_task: Callable[..., Learner], task: str
) -> None:
    learner = of_task(task, loaders=Moved)
    inputs, targets = learner.data.valid.loader.dataset.tensors
    with torch.no_grad():
        activation = resolve_task(task).activation
        views = [activation(learner.model(inputs + move)) for move in (0, 0.1, 0.2)]
        mean = torch.stack(views).mean(0)
    found = learner.tta(2)
    assert type(found) is type(learner.predictions())
    assert found.outputs == pytest.approx(mean.numpy(), abs=1e-4)
    loss = F.binary_cross_entropy if task == "multi_label" else F.mse_loss
    assert found.losses.mean() == pytest.approx(float(loss(mean, targets)), rel=1e-4)


def test_tta_without_augmentation_is_an_error(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, augment="none")
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    for own in (learner, tiny_learner()):
        with pytest.raises(ValueError, match=r"has no augmentation.*pass augment= to Image"):
            own.tta()
