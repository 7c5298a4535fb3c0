"""Class weights, and what is measured, where classes are of uneven size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import StopAt
from torch import nn
from torch.nn import functional as F

from finetune import CheckpointError, ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.data.sampling import Sampling
from finetune.tasks import MultiLabel, SingleLabel, TaskLike

CLASSES = ("a", "b", "c")
NUMBERS = torch.tensor([0] * 6 + [1] * 2 + [2])


def uneven_learner(*, sampling: Sampling | None = None, **options: object) -> Learner:
    """15 and 3 images to train on, 3 and 3 to validate."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(24)]
    data = ImageDataLoaders.from_lists(
        images,
        ["a"] * 15 + ["b"] * 3 + ["a", "b"] * 3,
        is_valid=[number >= 18 for number in range(24)],
        image_size=32,
        batch_size=6,
        augment="none",
        sampling=sampling,
    )
    made: dict = {"weights": None, "progress": False, "device": "cpu", **options}
    return vision_learner(data, "test_resnet", head="linear", dropout=0.0, **made)


def test_balanced_weights_make_all_classes_count_alike() -> None:
    loss = SingleLabel().weighted_loss("balanced", CLASSES, NUMBERS)
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(logits, NUMBERS, reduction="none")
    by_class = [each[number == NUMBERS].mean() for number in range(3)]
    assert loss(logits, NUMBERS) == pytest.approx(float(torch.stack(by_class).mean()), rel=1e-6)


def test_a_mapping_has_weights_by_name_and_one_for_the_others() -> None:
    loss = SingleLabel().weighted_loss({"b": 3.0}, CLASSES, NUMBERS)
    assert isinstance(loss, nn.CrossEntropyLoss)
    assert loss.weight is not None
    assert loss.weight.tolist() == [1, 3, 1]


def test_a_class_without_images_weighs_one() -> None:
    loss = SingleLabel().weighted_loss("balanced", CLASSES, NUMBERS[:8])
    assert isinstance(loss, nn.CrossEntropyLoss)
    assert loss.weight is not None
    assert loss.weight.tolist() == pytest.approx([4 / 6, 2, 1])


def test_of_several_labels_those_with_and_without_a_class_count_alike() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    loss = MultiLabel().weighted_loss("balanced", ("a", "b"), targets)
    assert isinstance(loss, nn.BCEWithLogitsLoss)
    assert loss.pos_weight is not None
    assert loss.pos_weight.tolist() == pytest.approx([1 / 3, 3])


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"d": 1.0}, "class_weights: there is no class 'd'"),
        ({"a": 0.0}, r"class_weights\['a'\] must be a finite number above 0, got 0.0"),
        ("even", "class_weights must be one of 'balanced', got 'even'"),
    ],
)
def test_weights_of_no_class_and_none_at_all_are_refused(weights: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        SingleLabel().weighted_loss(weights, CLASSES, NUMBERS)  # type: ignore[arg-type]


class Margins(SingleLabel):
    name = "margins"

    def default_loss(self, target_std: torch.Tensor | None = None) -> nn.Module:
        return nn.MultiMarginLoss()


@pytest.mark.parametrize("task", ["regression", Margins()])
def test_a_task_without_classes_or_with_a_loss_of_its_own_takes_no_weights(task: TaskLike) -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 4
    labels = [1.0, 2.0] * 2 if task == "regression" else ["a", "b"] * 2
    data = ImageDataLoaders.from_lists(
        images, labels, task=task, is_valid=[False, False, True, True], batch_size=1
    )
    with pytest.raises(ValueError, match=r"class_weights= are for classes, .*task='(regr|marg)"):
        vision_learner(data, "test_resnet", weights=None, class_weights="balanced")


def test_an_own_loss_and_class_weights_are_an_error() -> None:
    with pytest.raises(ValueError, match="class_weights= are weights of the task's own loss"):
        uneven_learner(loss=F.cross_entropy, class_weights="balanced")


def test_a_learner_trains_and_validates_with_the_weights() -> None:
    learner = uneven_learner(class_weights="balanced")
    learner.fine_tune(1)
    table = learner.predictions()
    losses = -np.log(table.probabilities[np.arange(6), table.targets])  # type: ignore[attr-defined]
    weights = np.array([18 / (2 * 15), 18 / (2 * 3)])[table.targets]
    assert learner.validate()["loss"] == pytest.approx(
        float((losses * weights).sum() / weights.sum()), rel=1e-4
    )


def test_a_checkpoint_belongs_to_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    uneven_learner(class_weights="balanced").fit(1, checkpoint=path, callbacks=[StopAt(1)])
    with pytest.raises(CheckpointError, match="loss weight"):
        uneven_learner(class_weights={"a": 2.0}).fit(1, checkpoint=path)


def test_an_exported_model_is_evaluated_with_its_weights_and_metrics(tmp_path: Path) -> None:
    learner = uneven_learner(class_weights="balanced")
    learner.fine_tune(1)
    learner.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    assert loaded.evaluate(learner.data.valid) == pytest.approx(learner.validate(), rel=1e-4)


def test_uneven_classes_are_measured_by_balanced_accuracy_too() -> None:
    assert list(uneven_learner().validate()) == ["loss", "accuracy", "balanced_accuracy"]
    assert SingleLabel().standard_metrics([49, 10]) == ("accuracy",)
    assert SingleLabel().standard_metrics([50, 10]) == ("accuracy", "balanced_accuracy")
    assert list(uneven_learner(metrics=["f1"]).validate()) == ["loss", "f1"]


def test_kept_features_come_in_the_sampled_order() -> None:
    weights = []
    for cache_features in (True, False):
        learner = uneven_learner(sampling="balanced")
        learner.fine_tune(1, freeze_epochs=2, freeze_views=1, cache_features=cache_features)
        weights.append(learner.model.get_submodule("head").state_dict()["1.weight"])
    assert torch.allclose(*weights, atol=1e-4)
