"""A kind of target that the library does not have, from images to an exported model.

Ordinal regression: classes in an order, such as the grades of a disease. The model gives a logit
for each border between two neighbouring classes, that of "the class is beyond this border". It is
here as it would be in a user's own file: nothing in the package knows of it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune import ImageDataLoaders, Learner, Prediction, load_learner, vision_learner
from finetune.interpret.predictions import Predictions
from finetune.tasks import CardText, Loss, SingleLabel, register

GRADES = ("none", "mild", "severe", "worst")
SIDE = 32


def beyond_borders(targets: Tensor, borders: int) -> Tensor:
    """[B] class numbers -> [B, borders] whether the class is beyond each border, 0 or 1."""
    return (targets[:, None] > torch.arange(borders, device=targets.device)).float()


def ordinal_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, beyond_borders(targets, outputs.shape[1]))


CARD_CODE = """torch.cat([torch.ones(len(logits), 1), logits.sigmoid()], 1)
beyond_next = torch.cat([logits.sigmoid(), torch.zeros(len(logits), 1)], 1)
scores = (probabilities - beyond_next).clamp_min(1e-12).log()
probabilities = (scores / {temperature}).softmax(1)"""
"""For the model card, where it follows `probabilities = `."""


class Ordinal(SingleLabel):
    """Ordered classes. Targets: int64 [N]. Outputs: [B, C - 1] logits of being beyond a border."""

    name: ClassVar[str] = "graded"
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "auroc")
    card: ClassVar[CardText] = replace(
        SingleLabel.card,
        model_kind="An ordinal classifier",
        activation=CARD_CODE,
    )

    def output_count(self, classes: Sequence[str]) -> int:
        return len(classes) - 1

    def class_scores(self, outputs: Tensor) -> Tensor:
        """Log-probabilities: of being beyond the border before, but not beyond the one after."""
        beyond = outputs.sigmoid()
        certain, impossible = torch.ones_like(beyond[:, :1]), torch.zeros_like(beyond[:, :1])
        edges = torch.cat([certain, beyond, impossible], dim=1)
        return (edges[:, :-1] - edges[:, 1:]).clamp_min(1e-12).log()

    def default_loss(self, target_std: Tensor | None = None) -> Loss:
        return ordinal_loss

    def example_losses(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(
            outputs, beyond_borders(targets, outputs.shape[1]), reduction="none"
        )
        return losses.mean(dim=1)

    def inverse_activation(self, activated: Tensor) -> Tensor:
        beyond = 1 - activated.cumsum(dim=1)[:, :-1]
        return beyond.logit(eps=1e-9).float()


@pytest.fixture(scope="module")
def task() -> Ordinal:
    return register(Ordinal())


def draw_images(count: int = 60) -> tuple[list[np.ndarray], list[str]]:
    """The brighter, the worse; some labels are off by one."""
    noise = np.random.default_rng(0)
    images, labels = [], []
    for number in range(count):
        grade = number % len(GRADES)
        pixels = noise.normal(40 + 55 * grade, 12, (SIDE, SIDE, 3))
        images.append(pixels.clip(0, 255).astype(np.uint8))
        is_wrong = number % 9 == 0 and grade < 3
        labels.append(GRADES[grade + is_wrong])
    return images, labels


@pytest.fixture(scope="module")
def learner(task: Ordinal) -> Learner:
    images, labels = draw_images()
    data = ImageDataLoaders.from_lists(
        images,
        labels,
        classes=GRADES,
        task=task,
        image_size=SIDE,
        batch_size=12,
        augment="light",
        seed=3,
    )
    trained = vision_learner(
        data,
        "test_efficientnet",
        weights=None,
        head="mlp",
        progress=False,
        device="cpu",
        norm="train",
    )
    trained.fine_tune(12, base_lr=1e-2)
    return trained


def test_it_learns_with_its_own_loss_and_metrics(learner: Learner) -> None:
    assert learner.model.head[-1].out_features == len(GRADES) - 1
    results = learner.history.epochs[-1].valid
    assert list(results) == ["loss", "accuracy", "auroc"]
    assert results["accuracy"] > 0.8
    assert learner.validate() == pytest.approx(results, rel=1e-4)


def test_its_table_counts_in_classes(learner: Learner) -> None:
    table = learner.predictions()
    assert isinstance(table, Predictions)
    assert table.probabilities.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-4)
    assert table.losses.mean() == pytest.approx(learner.validate()["loss"], rel=1e-4)
    assert [row.name for row in table.report().rows] == list(GRADES)
    assert table.report().accuracy == pytest.approx(learner.validate()["accuracy"])
    assert table.confusion_matrix().shape == (4, 4)


def test_views_are_averaged_as_probabilities(learner: Learner) -> None:
    table = learner.tta(2)
    assert table.probabilities.sum(axis=1) == pytest.approx(np.ones(len(table)), abs=1e-4)
    assert table.report().accuracy > 0.6


def test_an_exported_model_is_loaded_with_its_task(
    learner: Learner, tmp_path: Path, task: Ordinal
) -> None:
    temperature = learner.calibrate()
    assert temperature != 1
    learner.export(tmp_path / "model", ["safetensors", "torch_export", "onnx"])
    loaded = load_learner(tmp_path / "model")
    assert loaded.task == task
    images, labels = draw_images(8)
    ours, theirs = learner.predict(images), loaded.predict(images)
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(other, Prediction)
        assert other.probabilities == pytest.approx(mine.probabilities, abs=1e-5)
    assert sum(p.label == label for p, label in zip(theirs, labels, strict=True)) >= 6
    table = loaded.predictions(learner.data.valid)
    assert table.targets.tolist() == learner.predictions().targets.tolist()
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    inputs = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    assert program(inputs).shape == (8, 4)
    assert "An ordinal classifier" in (tmp_path / "model" / "README.md").read_text()


def test_the_card_of_a_calibrated_model_computes_its_probabilities(
    learner: Learner, tmp_path: Path, task: Ordinal
) -> None:
    temperature = learner.calibrate()
    learner.export(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    code = card[card.index("probabilities = torch.cat") : card.index(".numpy()")]
    variables: dict[str, Any] = {"torch": torch, "logits": torch.tensor([[1.0, 0.2, -3.0]])}
    exec(code, variables)
    expected = task.activation(variables["logits"], temperature)
    torch.testing.assert_close(variables["probabilities"], expected)


def test_it_shows_where_each_class_was_seen(learner: Learner) -> None:
    pytest.importorskip("captum")
    images, _ = draw_images(len(GRADES))
    for image, name in zip(images, GRADES, strict=True):
        assert learner.activation_map(image, name).target == name


def test_a_model_of_a_task_that_nobody_registered_says_what_to_do(
    learner: Learner, tmp_path: Path
) -> None:
    learner.export(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    description = json.loads(file.read_text())
    del description["sha256"]
    file.write_text(json.dumps({**description, "task": "surgical"}))
    with pytest.raises(ValueError, match=r"got 'surgical'.*finetune\.tasks\.register\(MyTask\(\)"):
        load_learner(tmp_path / "model")


def test_two_tasks_of_one_name_are_refused(task: Ordinal) -> None:
    class Other(SingleLabel):
        name: ClassVar[str] = "graded"

    with pytest.raises(ValueError, match=r"a task 'graded' already, .*test_new_task\.Ordinal"):
        register(Other())


def test_labels_of_another_kind_are_refused(task: Ordinal) -> None:
    images, labels = draw_images(8)
    unknown: list[Any] = [*labels[:-1], "dead"]
    with pytest.raises(ValueError, match="labels that classes= lacks: 'dead'"):
        ImageDataLoaders.from_lists(images, unknown, classes=GRADES, task=task)
