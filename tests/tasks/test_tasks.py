"""Each task from images to an exported model that is loaded again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import StopAt, copy_of, same_state
from torch import nn

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.data.loaders import Batch
from finetune.tasks import LabelsPrediction, Prediction, SingleLabel, ValuesPrediction
from finetune.training.plan import KEPT_EPOCHS, FineTune

TASKS = ("single_label", "multi_label", "regression")
SIDE = 32


def draw_images(task: str, count: int = 48) -> tuple[list[np.ndarray], list[Any]]:
    """Noise with a bright left half, right half, both or none; or of some brightness."""
    noise = np.random.default_rng(0)
    found, labels = [], []
    for i in range(count):
        left, right = i % 2 == 1, i // 2 % 2 == 1
        pixels = noise.normal(60, 15, (SIDE, SIDE, 3))
        if task == "regression":
            pixels += i % 12 * 15
            labels.append(1000 + 10 * (i % 12))
        else:
            pixels[:, : SIDE // 2] += 150 * left
            pixels[:, SIDE // 2 :, 1] += 150 * right
            names = ["left"] * left + ["right"] * right
            labels.append(names if task == "multi_label" else str(left))
        found.append(pixels.clip(0, 255).astype(np.uint8))
    return found, labels


def make_learner(task: str, batch_size: int = 12, **options: Any) -> Learner:
    images, labels = draw_images(task)
    data = ImageDataLoaders.from_lists(
        images,
        labels,
        task=task,
        image_size=SIDE,
        batch_size=batch_size,
        augment="none",  # type: ignore[arg-type]
    )
    made = {"weights": None, "progress": False, "device": "cpu", "norm": "train", **options}
    made.setdefault("precision", "fp32")
    return vision_learner(data, "test_efficientnet", **made)


@pytest.fixture(scope="module")
def trained() -> dict[str, Learner]:
    """Do not change them."""
    learners = {task: make_learner(task, 4, head="linear", dropout=0.0) for task in TASKS}
    for learner in learners.values():
        learner.fit_one_cycle(10, 1e-2)
    return learners


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("single_label", {"accuracy": 0.9}),
        ("multi_label", {"f1": 0.85, "accuracy": 0.85}),
        ("regression", {"r2": 0.5}),
    ],
)
def test_what_can_be_learned_is_learned(
    trained: dict[str, Learner], task: str, metrics: dict[str, float]
) -> None:
    results = trained[task].validate()
    assert {name for name, least in metrics.items() if results[name] < least} == set()
    assert results["loss"] == trained[task].history.epochs[-1].valid["loss"]


def test_default_metrics_suit_the_task(trained: dict[str, Learner]) -> None:
    names = {task: list(learner.validate())[1:] for task, learner in trained.items()}
    assert names == {
        "single_label": ["accuracy"],
        "multi_label": ["f1", "accuracy"],
        "regression": ["mae", "r2"],
    }


def test_targets_have_the_shape_of_the_outputs(trained: dict[str, Learner]) -> None:
    for task, shape, kind in (
        ("single_label", [4], torch.int64),
        ("multi_label", [4, 2], torch.float32),
        ("regression", [4, 1], torch.float32),
    ):
        batch: Batch = next(trained[task].data.train.epoch(0, 0))
        assert list(batch.targets.shape) == shape
        assert batch.targets.dtype == kind


@pytest.mark.parametrize("task", TASKS)
def test_kept_features_give_what_running_the_backbone_gives(task: str) -> None:
    states = []
    for cache_features in (True, False):
        learner = make_learner(task, norm="eval", runtime=None, head="mlp")
        assert learner.trainer.resolve(FineTune(1))[0].epochs == KEPT_EPOCHS
        learner.fine_tune(1, freeze_epochs=2, freeze_views=1, cache_features=cache_features)
        states.append([row.train_loss for row in learner.history.epochs])
    assert states[0] == pytest.approx(states[1], rel=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_run_that_is_stopped_saved_and_loaded_ends_alike(task: str, tmp_path: Path) -> None:
    whole = make_learner(task)
    whole.fine_tune(2)
    first, second = make_learner(task), make_learner(task)
    first.fine_tune(2, callbacks=[StopAt(5)])
    first.save(tmp_path / "part.ckpt")
    second.load(tmp_path / "part.ckpt")
    second.resume()
    assert same_state(copy_of(second.model.state_dict()), whole.model.state_dict())


@pytest.mark.parametrize("task", TASKS)
def test_export_predicts_what_the_learner_does(
    trained: dict[str, Learner], task: str, tmp_path: Path
) -> None:
    trained[task].export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    assert (loaded.task.name, loaded.classes) == (task, trained[task].data.classes)
    images = draw_images(task)[0][:5]
    ours, theirs = trained[task].predict(images), loaded.predict(images)
    kinds = (Prediction, LabelsPrediction, ValuesPrediction)
    assert {type(p) for p in theirs} == {kinds[TASKS.index(task)]}
    for one, other in zip(ours, theirs, strict=True):
        assert one[0] == other[0] if task != "regression" else True
        assert one[-1] == pytest.approx(other[-1], abs=1e-5, rel=1e-5)


def test_predicted_labels_may_be_none_or_several(trained: dict[str, Learner]) -> None:
    images, labels = draw_images("multi_label")
    found = [list(p.labels) for p in trained["multi_label"].predict(images)]
    assert sum(a == b for a, b in zip(found, labels, strict=True)) >= 40
    assert {len(names) for names in found} == {0, 1, 2}


def test_predicted_values_have_the_unit_of_the_targets(trained: dict[str, Learner]) -> None:
    images, labels = draw_images("regression")
    values = [p.value for p in trained["regression"].predict(images)]
    assert np.abs(np.array(values) - labels).mean() < 22
    assert np.corrcoef(values, labels)[0, 1] > 0.8


def test_tuned_thresholds_are_exported_and_used(tmp_path: Path) -> None:
    learner = make_learner("multi_label")
    learner.fine_tune(1)
    found = learner.tune_thresholds()
    assert list(found) == ["left", "right"]
    assert found != {"left": 0.5, "right": 0.5}
    learner.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    assert loaded.thresholds == pytest.approx(found)
    prediction = loaded.predict(draw_images("multi_label")[0][3])
    assert prediction.labels == tuple(
        name for name, p in prediction.probabilities.items() if p >= found[name]
    )


def test_tuned_thresholds_reach_the_best_f1_on_validation() -> None:
    learner = make_learner("multi_label")
    learner.fine_tune(1)
    assert isinstance(learner.data, ImageDataLoaders)
    valid = learner.data.valid_examples

    def f1(thresholds: dict[str, float]) -> float:
        predictor = learner.predictor()
        there = predictor.probabilities(list(valid.items)) >= torch.tensor(
            [thresholds[name] for name in learner.data.classes or ()]
        )
        hits = (there & (valid.labels == 1)).sum(0)
        return float((2 * hits / (there.sum(0) + valid.labels.sum(0))).mean())

    best = f1(learner.tune_thresholds())
    tried = [f1({"left": a, "right": b}) for a in np.arange(0, 1, 0.02) for b in (0.1, 0.5, 0.9)]
    assert best >= max(tried) - 1e-6


def test_thresholds_are_for_several_labels_only(trained: dict[str, Learner]) -> None:
    with pytest.raises(ValueError, match=r"task='multi_label'.*table of ValuesPredictions"):
        trained["regression"].tune_thresholds()


def test_older_export_without_a_task_is_single_label(
    trained: dict[str, Learner], tmp_path: Path
) -> None:
    trained["single_label"].export(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    description = json.loads(file.read_text())
    del description["task"], description["architecture"]["scaled"], description["sha256"]
    file.write_text(json.dumps(description))
    assert load_learner(tmp_path / "model").task == SingleLabel()


def test_own_loss_and_metrics_are_taken_for_every_task() -> None:
    def off(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).abs().max()

    learner = make_learner("regression", loss=nn.functional.l1_loss, metrics=["rmse", off])
    learner.fit(1)
    results = learner.validate()
    assert list(results) == ["loss", "rmse", "off"]
    assert results["loss"] <= results["rmse"] <= results["off"]


def test_metric_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no metric 'exact_match' for task='regression'; it is f"):
        make_learner("regression", metrics=["exact_match"])


def test_several_targets_are_named(tmp_path: Path) -> None:
    images, _ = draw_images("regression", 24)
    rows = ["image,width,height"]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i},{-i * 100}")
    (tmp_path / "sizes.csv").write_text("\n".join(rows))
    data = ImageDataLoaders.from_csv(
        tmp_path / "sizes.csv",
        label_column=["width", "height"],
        task="regression",
        image_size=SIDE,
        batch_size=8,
    )
    assert data.classes == ("width", "height")
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False, device="cpu")
    learner.fit(1)
    prediction = learner.predict(images[3])
    assert list(prediction.values) == ["width", "height"]
    with pytest.raises(ValueError, match=r"several values, see \.values: width, height"):
        _ = prediction.value


def test_predictions_are_what_predict_and_validate_say(trained: dict[str, Learner]) -> None:
    labels, values = trained["multi_label"], trained["regression"]
    found = labels.predictions()
    assert type(found).__name__ == "LabelsPredictions"
    assert found.losses.mean() == pytest.approx(labels.validate()["loss"], rel=1e-4)
    said = labels.predict(list(labels.data.valid_examples.items))
    assert [row.predicted for row in found] == [", ".join(p.labels) or "(none)" for p in said]
    numbers = values.predictions()
    assert numbers.report().rows[0].mae == pytest.approx(values.validate()["mae"], rel=1e-4)
    assert numbers.report().rows[0].r2 == pytest.approx(values.validate()["r2"], rel=1e-4)
    assert numbers.losses.mean() == pytest.approx(values.validate()["loss"], rel=1e-4)
    for table in (found, numbers):
        assert len(table.show_results(4).axes) == 4
    with pytest.raises(ValueError, match="one class per example"):
        labels.calibrate()


def test_tuned_thresholds_are_those_of_the_predictions() -> None:
    learner = make_learner("multi_label", 4)
    learner.fit_one_cycle(2, 1e-2)
    thresholds = learner.tune_thresholds()
    assert learner.predictions().thresholds.tolist() == pytest.approx(list(thresholds.values()))
