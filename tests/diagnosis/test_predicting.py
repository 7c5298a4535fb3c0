"""Predictions of a learner: the evaluation's numbers, by example."""

import shutil
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support import copy_of, same_state, tiny_learner, tiny_pairs
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset

from finetune import DataLoaders, ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.diagnosis.predicting import example_losses


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


def test_another_loaders_pictures_come_in_the_learners_size(photos: Path) -> None:
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
    with pytest.raises(ValueError, match="know no pictures"):
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


def test_a_torch_loader_gives_pictures_that_are_ready_or_in_uint8(learner: Learner) -> None:
    data, expected = learner.data, learner.predictions().probabilities
    raw = torch.cat([batch.inputs for batch in data.valid.epoch(0, 0)])
    ready = data.inputs(data.valid_examples.items, torch.device("cpu"))
    edge = (raw.shape[-1] - 32) // 2
    cropped = raw[:, :, edge : edge + 32, edge : edge + 32]
    for images in (ready, raw, cropped):
        loader = DataLoader(TensorDataset(images, data.valid_examples.labels), 4)
        assert learner.predictions(loader).probabilities == pytest.approx(expected, abs=1e-5)
        assert len(learner.features(loader)) == len(expected)
    with pytest.raises(ValueError, match=r"drawn by the pictures' numbers.*learner\.data\.valid"):
        learner.tta(2, loader)
    labels = data.valid_examples.labels
    with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\], got \[4, 3, 34, 34\]"):
        learner.predictions(DataLoader(TensorDataset(raw[:, :, 1:-1, 1:-1], labels), 4))


def test_the_table_is_kept_until_the_weights_change() -> None:
    learner = tiny_learner()
    first = learner.predictions()
    assert learner.predictions() is first
    assert learner.predictions(learner.data.valid) is first
    learner.fit(1, 1e-2)
    second = learner.predictions()
    assert second is not first
    with torch.no_grad():
        learner.model[-1].bias += 1
    assert learner.predictions() is not second


def test_loading_other_weights_makes_a_new_table(tmp_path: Path) -> None:
    learner = tiny_learner()
    learner.save(tmp_path / "a.ckpt")
    learner.fit(1, 1e-1)
    trained = learner.predictions()
    learner.load(tmp_path / "a.ckpt")
    assert not np.allclose(learner.predictions().probabilities, trained.probabilities)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_the_learners_own(smoothing: float) -> None:
    weight = torch.tensor([1.0, 3.0])
    outputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    options = {"weight": weight, "label_smoothing": smoothing}
    expected = nn.functional.cross_entropy(outputs, targets, reduction="none", **options)
    function = partial(nn.functional.cross_entropy, **options)
    module = nn.CrossEntropyLoss(**options)
    for loss in (function, module):
        assert torch.equal(example_losses(loss, outputs, targets), expected)
    assert module.reduction == "mean"


def test_other_losses_are_shown_as_cross_entropy() -> None:
    outputs, targets = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    expected = nn.functional.cross_entropy(outputs, targets, reduction="none")
    own = example_losses(lambda o, t: nn.functional.multi_margin_loss(o, t), outputs, targets)
    assert torch.equal(own, expected)


def test_other_tasks_are_an_error() -> None:
    several = TensorDataset(torch.randn(8, 4), torch.ones(8, 2))
    learner = Learner(
        DataLoaders(DataLoader(several, 4), DataLoader(several, 4)),
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)),
        loss=nn.functional.binary_cross_entropy_with_logits,
        progress=False,
    )
    with pytest.raises(ValueError, match=r"one class an example.*float32 \[4, 2\]"):
        learner.predictions()


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
    with pytest.raises(ValueError, match="views must be positive, got 0"):
        learner.tta(0)


# --- calibration


def overconfident() -> Learner:
    """Right for two thirds of the examples, and nearly certain of all."""
    inputs = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    flipped = torch.rand(300, generator=torch.Generator().manual_seed(1)) < 0.33
    targets = (inputs[:, 0] > inputs[:, 1]).long() ^ flipped.long()
    loader = DataLoader(TensorDataset(inputs, targets), 64)
    model = nn.Sequential(OrderedDict(backbone=nn.Identity(), head=nn.Linear(2, 2)))
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[-20.0, 20.0], [20.0, -20.0]]))
        model.head.bias.zero_()
    data = DataLoaders(loader, loader, classes=["no", "yes"])
    return Learner(
        data, model, loss=nn.functional.cross_entropy, split=lambda m: [[m]], progress=False,
        device="cpu", precision="fp32",
    )  # fmt: skip


def test_a_picture_of_the_plan_keeps_the_calibration(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    learner.fit(1, 1e-3)
    temperature = learner.calibrate()
    learner.plot_plan(1)
    assert learner.predictor().temperature == temperature


def test_calibration_tempers_predictions_and_predict_alike() -> None:
    learner = overconfident()
    before = learner.predictions()
    temperature = learner.calibrate()
    assert temperature > 5
    after = learner.predictions()
    assert before.calibration().error > 0.2
    assert after.calibration().error < before.calibration().error / 2
    assert (after.predicted == before.predicted).all()
    item = learner.data.valid.loader.dataset[0][0]
    assert learner.predict(item).probability == pytest.approx(after[0].probability, abs=1e-6)
    assert learner.calibrate() == pytest.approx(temperature)  # of the outputs, not on top


def test_a_temperature_is_given_up_when_the_weights_change() -> None:
    learner = overconfident()
    learner.calibrate()
    with torch.no_grad():
        learner.model.head.weight *= 0.5
    with pytest.warns(UserWarning, match="the weights changed since calibrate"):
        assert learner.predictor().temperature == 1.0
    assert learner.predictor().temperature == 1.0


def test_the_temperature_is_exported(photos: Path, tmp_path: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    assert not learner.predictions().correct.all()
    temperature = learner.calibrate()
    assert temperature != 1.0
    learner.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    assert loaded.temperature == temperature
    item = photos / "red" / "000.jpg"
    expected = learner.predict(item).probabilities
    assert loaded.predict(item).probabilities == pytest.approx(expected, abs=1e-4)
    table = {Path(row.item): row for row in learner.predictions(learner.data.train)}
    own = next(iter(table.values()))
    assert list(learner.predict(own.item).probabilities.values()) == pytest.approx(
        own.probabilities.tolist(), abs=1e-3
    )
