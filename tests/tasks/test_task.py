"""The loss that suits numbers; see test_tasks.py for each task from end to end."""

from pathlib import Path

import pytest
from test_tasks import SIDE, draw_images, make_learner
from torch import nn

from finetune import ImageDataLoaders, load_learner, vision_learner


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_unit_of_the_targets_does_not_change_what_is_learned(clip_norm: float | None) -> None:
    images, labels = draw_images("regression")
    found = []
    for unit in (1.0, 1e-8, 1e6):
        data = ImageDataLoaders.from_lists(
            images, [label * unit for label in labels], task="regression",
            image_size=SIDE, batch_size=12, augment="none",
        )  # fmt: skip
        learner = vision_learner(
            data, "test_efficientnet", weights=None, progress=False, device="cpu", norm="train",
            head="linear", dropout=0.0, clip_norm=clip_norm, metrics=["r2", "mae"],
        )  # fmt: skip
        learner.fit_one_cycle(2, 1e-2)
        results = learner.validate()
        found.append((results["loss"], results["r2"], results["mae"] / unit))
    assert found[1] == pytest.approx(found[0], rel=1e-2)
    assert found[2] == pytest.approx(found[0], rel=1e-2)


def test_loss_of_a_regression_is_in_variances_of_training() -> None:
    learner = make_learner("regression", metrics=["mse"])
    assert isinstance(learner.data, ImageDataLoaders)
    variance = learner.data.train_examples.labels.var(correction=0)
    results = learner.validate()
    assert results["loss"] == pytest.approx(results["mse"] / float(variance), rel=1e-4)


def test_evaluation_of_an_export_tells_the_same_loss(tmp_path: Path) -> None:
    learner = make_learner("regression")
    assert isinstance(learner.data, ImageDataLoaders)
    learner.export(tmp_path / "model")
    predictor = load_learner(tmp_path / "model")
    results = predictor.evaluate(learner.data.valid_examples, metrics=["r2"])
    told = learner.validate()
    assert results == pytest.approx({"loss": told["loss"], "r2": told["r2"]}, rel=1e-4)


def test_a_loss_of_probabilities_does_not_fit_outputs_that_are_logits() -> None:
    images, labels = draw_images("multi_label")
    data = ImageDataLoaders.from_lists(
        images, labels, task="multi_label", image_size=SIDE, batch_size=12
    )
    with pytest.raises(ValueError, match=r"takes probabilities, .* take nn.BCEWithLogitsLoss"):
        vision_learner(data, "test_efficientnet", weights=None, loss=nn.BCELoss())
