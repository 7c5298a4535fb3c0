"""What is kept, until the weights change; the temperature and the thresholds."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_learner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import DataLoaders, ImageDataLoaders, Learner, load_learner, vision_learner


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


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_tables_of_labels_and_values_are_kept_too(
    of_task: Callable[..., Learner], task: str
) -> None:
    learner = of_task(task)
    first = learner.predictions()
    assert learner.predictions() is first
    learner.fit(1, 1e-2)
    assert learner.predictions() is not first


def test_thresholds_are_applied_to_the_kept_table(of_task: Callable[..., Learner]) -> None:
    learner = of_task("multi_label")
    before = learner.predictions()
    thresholds = learner.tune_thresholds()
    after = learner.predictions()
    assert after.outputs is before.outputs
    assert after.thresholds.tolist() == pytest.approx(list(thresholds.values()))
    assert learner.predictions() is after


def test_thresholds_are_given_up_when_the_weights_change(
    of_task: Callable[..., Learner], tmp_path: Path
) -> None:
    learner = of_task("multi_label")
    learner.save(tmp_path / "a.ckpt")
    assert learner.thresholds is None
    assert learner.tune_thresholds() == learner.thresholds
    assert learner.predictor().thresholds == learner.thresholds
    learner.fit(1, 1e-2)
    with pytest.warns(UserWarning, match=r"changed since tune_thresholds\(\).*tune them again"):
        assert learner.predictor().thresholds == {"left": 0.5, "right": 0.5}
    assert learner.thresholds is None


def test_a_checkpoint_brings_its_own_thresholds_and_temperature(
    of_task: Callable[..., Learner], tmp_path: Path
) -> None:
    learner = of_task("multi_label")
    learner.save(tmp_path / "untuned.ckpt")
    tuned = learner.tune_thresholds()
    learner.save(tmp_path / "tuned.ckpt")
    learner.fit(1, 1e-2)
    learner.load(tmp_path / "tuned.ckpt")
    assert learner.thresholds == tuned
    learner.load(tmp_path / "untuned.ckpt")
    assert learner.thresholds is None
    other = overconfident()
    temperature = other.calibrate()
    other.save(tmp_path / "calibrated.ckpt")
    fresh = overconfident()
    fresh.load(tmp_path / "calibrated.ckpt")
    assert fresh.predictor().temperature == temperature


def test_calls_for_one_class_an_example_tell_other_tasks_of_their_own(
    of_task: Callable[..., Learner],
) -> None:
    labels, values = of_task("multi_label"), of_task("regression")
    with pytest.raises(ValueError, match=r"one class per example.*tune_thresholds\(\) finds"):
        labels.calibrate()
    with pytest.raises(ValueError, match=r"one class per example.*no probabilities"):
        values.calibrate()
    for learner in (labels, values):
        with pytest.raises(ValueError, match=r"one class per example.*top_losses\(\)"):
            learner.suspicious_labels(of="valid")


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


def test_a_figure_of_the_plan_keeps_the_calibration(photos: Path) -> None:
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


def test_the_tempered_table_is_kept_beside_the_other() -> None:
    learner = overconfident()
    learner.calibrate()
    found = learner.predictions()
    assert learner.predictions() is found
    assert learner.predictions(DataLoader(learner.data.valid.loader.dataset, 64)) is not found
    assert learner.predictions() is found
