"""Tables of predictions of several labels per image, and of numbers."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multilabel_f1_score

from finetune.interpret.labels_predictions import LabelsPredictions
from finetune.interpret.values_predictions import ValuesPredictions

CLASSES = ["cat", "dog", "eel"]


def labels(count: int = 40, **options: object) -> LabelsPredictions:
    draws = np.random.default_rng(0)
    targets = (draws.random((count, 3)) < 0.4).astype(np.float32)
    probabilities = np.clip(0.6 * targets + 0.6 * draws.random((count, 3)), 0, 1)
    losses = draws.random(count)
    items = [f"{i}.jpg" for i in range(count)]
    return LabelsPredictions(items, CLASSES, targets, probabilities, losses, **options)


def test_the_report_of_labels_equals_torchmetrics() -> None:
    table = labels()
    expected = multilabel_f1_score(
        torch.tensor(table.outputs), torch.tensor(table.targets).int(), 3, average="none"
    )
    report = table.report()
    assert [row.f1 for row in report.rows] == pytest.approx(expected.tolist())
    assert [row.support for row in report.rows] == table.targets.sum(axis=0).tolist()
    assert report.accuracy == pytest.approx((table.predicted == table.targets).all(1).mean())
    assert "all labels right" in repr(report)


def test_labels_are_predicted_above_their_thresholds() -> None:
    low = LabelsPredictions(
        ["a"], CLASSES, [[1, 0, 0]], [[0.4, 0.6, 0.1]], [1.0], thresholds={"cat": 0.3}
    )
    assert low[0].predicted == "cat, dog"
    assert low[0].target == "cat"
    (none,) = LabelsPredictions(["a"], CLASSES, [[0, 0, 0]], [[0.4, 0.1, 0.1]], [1.0])
    assert (none.predicted, none.target) == ("(none)", "(none)")


def test_other_thresholds_change_the_labels_and_no_probability() -> None:
    table = labels()
    high = table.at_thresholds({"cat": 1.0, "eel": 0.2})
    assert high.thresholds.tolist() == [1.0, 0.5, 0.2]
    assert (high.probabilities == table.probabilities).all()
    assert (high.predicted == (table.outputs >= [1.0, 0.5, 0.2])).all()
    with pytest.raises(ValueError, match="no class 'dgo'; did you mean 'dog'"):
        table.at_thresholds({"dgo": 0.1})


def test_rows_are_shown_worst_first_and_written_to_a_file(tmp_path: Path) -> None:
    table = labels()
    losses = [row.loss for row in table.top_losses(5)]
    assert losses == sorted(table.losses.tolist(), reverse=True)[:5]
    assert table.top_losses(1)[0].item in table._repr_html_()
    table.to_csv(tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 40
    assert float(rows[3]["output for dog"]) == pytest.approx(table.outputs[3, 1], rel=1e-5)
    assert rows[3]["target"] == table[3].target


def values() -> ValuesPredictions:
    targets = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]])
    outputs = targets + np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 3.0]])
    losses = ((outputs - targets) ** 2).mean(axis=1)
    return ValuesPredictions(["a", "b", "c"], ["age", "price"], targets, outputs, losses)


def test_the_report_of_values_has_errors_and_explained_variance() -> None:
    age, price = values().report().rows
    assert age.mae == pytest.approx(1 / 3)
    assert age.rmse == pytest.approx((0.5 / 3) ** 0.5)
    assert age.r2 == pytest.approx(1 - 0.5 / 2)
    assert price.r2 == pytest.approx(1 - 9 / 200)
    assert "age 0.3333, price 1.0000" in repr(values())
    assert values()[2].predicted == "age 3, price 23"


@pytest.mark.parametrize(("outputs", "r2"), [([[1.0], [2.0]], 0), ([[1.0], [1.0]], 1)])
def test_r2_of_a_target_that_does_not_vary_is_1_or_0(outputs: list, r2: float) -> None:
    table = ValuesPredictions(["a", "b"], ["x"], [[1.0], [1.0]], outputs, [0, 1])
    assert table.report().rows[0].r2 == r2


@pytest.mark.parametrize(
    ("probabilities", "is_present", "f1", "threshold"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 1, 0.25),  # in the middle of the gap
        ([0.6, 0.7, 0.9, 0.95], [0, 0, 1, 1], 1, 0.8),
        ([0.4, 0.6], [1, 1], 1, 0.2),  # all are in
        ([0.1, 0.9], [0, 0], 0, 0.5),  # nothing to learn from
        ([0.2, 0.3, 0.8], [1, 0, 1], 0.8, 0.1),
    ],
)
def test_best_threshold_has_the_best_f1(
    probabilities: list[float], is_present: list[int], f1: float, threshold: float
) -> None:
    outputs = [[probability] for probability in probabilities]
    targets = [[float(present)] for present in is_present]
    numbers = list(range(len(probabilities)))
    table = LabelsPredictions(numbers, ["cat"], targets, outputs, np.zeros(len(numbers)))
    thresholds = table.best_thresholds()
    assert thresholds == {"cat": pytest.approx(threshold)}
    assert table.at_thresholds(thresholds).report().rows[0].f1 == pytest.approx(f1)


def test_images_of_labels_and_values(tmp_path: Path) -> None:
    table = labels(image=lambda i: Image.new("RGB", (8, 8), (6 * i, 0, 0)))
    table.show_results(4).savefig(tmp_path / "labels.png")
    assert len(table.show_results(4).axes) == 4
    worst = table.plot_top_losses(3).axes
    assert worst[0].get_title().startswith(f"loss {table.losses.max():.4g}"[:8])
    assert len(worst) == 3
    assert len(values().plot().axes) == 2
    with pytest.raises(ValueError, match="have no images"):
        values().show_results()


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must be \[1, 3\] and losses as long"):
        LabelsPredictions(["a"], CLASSES, [[1, 0]], [[0.4, 0.6, 0.1]], [1.0])
    with pytest.raises(ValueError, match="of at least 1, got 0"):
        labels().top_losses(0)
