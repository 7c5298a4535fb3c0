import math
from typing import Any

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    MulticlassAccuracy,
    MulticlassAUROC,
    MultilabelAUROC,
)

from finetune.interpret.predictions import Predictions
from finetune.metrics import create_metrics
from finetune.tasks import Task, registered_tasks

CPU = torch.device("cpu")
LOGITS = torch.tensor([[3.0, 1, 0], [2, 1, 0], [0, 4, 1], [1, 2, 0], [0, 0, 5], [9, 0, 1]])
TARGETS = torch.tensor([0, 0, 1, 0, 2, 2])
"""Predictions are 0 0 1 1 2 0: four of six right; recalls are 2/3, 1, 1/2."""


def by_hand(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def value_of(metric: object, outputs: torch.Tensor = LOGITS) -> float:
    ((_, created),) = create_metrics([metric], 3, CPU).items()
    created.update(outputs[:4], TARGETS[:4])
    created.update(outputs[4:], TARGETS[4:])
    return float(created.compute())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("balanced_accuracy", (2 / 3 + 1 + 1 / 2) / 3),
        ("recall", (2 / 3 + 1 + 1 / 2) / 3),
        ("precision", (2 / 3 + 1 / 2 + 1) / 3),
        ("f1", (2 / 3 + 2 / 3 + 2 / 3) / 3),
        ("top_2_accuracy", 6 / 6),
    ],
)
def test_named_metric_over_two_batches(name: str, expected: float) -> None:
    assert math.isclose(value_of(name), expected, abs_tol=1e-6)


def test_top_k_accuracy_is_that_of_scikit_learn() -> None:
    outputs = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(200) % 12
    for k in (2, 3, 5, 10):
        metric = create_metrics(f"top_{k}_accuracy", 12, CPU)[f"top_{k}_accuracy"]
        metric.update(outputs, targets)
        expected = sklearn_metrics.top_k_accuracy_score(targets, outputs, k=k)
        assert float(metric.compute()) == pytest.approx(expected)


def test_top_k_of_no_more_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="top_5_accuracy needs more than 5 classes, and there are"):
        create_metrics("top_5_accuracy", 5, CPU)


def test_auroc_of_a_perfect_ranking_is_one() -> None:
    perfect = torch.nn.functional.one_hot(TARGETS, 3) * 8.0 - 4
    assert math.isclose(value_of("auroc", perfect), 1, abs_tol=1e-6)


def test_reset_forgets() -> None:
    accuracy = create_metrics(["accuracy"], 3, CPU)["accuracy"]
    accuracy.update(LOGITS, TARGETS)
    accuracy.reset()
    accuracy.update(LOGITS[:1], TARGETS[:1])
    assert float(accuracy.compute()) == 1


def test_function_is_averaged_over_examples_and_not_over_batches() -> None:
    def share_of_zeros(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (targets == 0).float().mean()

    assert math.isclose(value_of(share_of_zeros), 3 / 6, abs_tol=1e-6)


def test_function_may_give_a_python_number() -> None:
    assert value_of(lambda outputs, targets: 2) == 2


def test_function_is_named_after_itself() -> None:
    def top_error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.0

    assert list(create_metrics([top_error, "f1"], 3, CPU)) == ["top_error", "f1"]


def test_callable_object_is_named_after_its_class() -> None:
    class Spread:
        def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return outputs.std()

    assert list(create_metrics([Spread()], 3, CPU)) == ["Spread"]


def test_torchmetrics_object_is_used_as_it_is() -> None:
    metric = MeanSquaredError()
    assert create_metrics([metric], None, CPU) == {"meansquarederror": metric}


def test_metric_needs_no_more_than_the_three_methods() -> None:
    class Count:
        def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None: ...
        def compute(self) -> float:
            return 0.0

        def reset(self) -> None: ...

    metric = Count()
    assert create_metrics([metric], None, CPU) == {"count": metric}


def test_no_metrics_are_none() -> None:
    assert create_metrics([], None, CPU) == {}


def test_misspelt_name_is_corrected() -> None:
    with pytest.raises(ValueError, match="no metric 'acuracy'; did you mean 'accuracy'"):
        create_metrics(["acuracy"], 3, CPU)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ValueError, match="no metric 'zzz'; there are accuracy, balanced_acc"):
        create_metrics(["zzz"], 3, CPU)


def test_named_metric_needs_the_classes() -> None:
    with pytest.raises(ValueError, match="'accuracy' needs the classes; pass DataLoaders"):
        create_metrics(["accuracy"], None, CPU)


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two metrics are called 'accuracy'"):
        create_metrics(["accuracy", "accuracy"], 3, CPU)


def test_metric_may_not_be_called_loss() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return 0.0

    with pytest.raises(ValueError, match="two metrics are called 'loss'"):
        create_metrics([loss], 3, CPU)


def test_other_object_is_refused() -> None:
    with pytest.raises(TypeError, match="metrics must be names, functions or torchmetrics objects"):
        create_metrics([3], 3, CPU)


# --- several labels an image, and numbers

SCORES = torch.tensor([[2.0, -1, 0.4], [0.3, 0.2, -3], [-2, 1, 0.6], [0.1, -1, 3], [-1, 2, -1]])
THERE = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0]])


def value_for(task: str, name: str, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    metric = create_metrics([name], targets.shape[1], CPU, task)[name]  # type: ignore[arg-type]
    for rows in (slice(0, 2), slice(2, None)):
        metric.update(outputs[rows], targets[rows])
    return float(metric.compute())


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("accuracy", lambda y, p: ((p > 0.5) == y).mean()),
        ("exact_match", lambda y, p: sklearn_metrics.accuracy_score(y, p > 0.5)),
        ("f1", lambda y, p: sklearn_metrics.f1_score(y, p > 0.5, average="macro")),
        ("f1_micro", lambda y, p: sklearn_metrics.f1_score(y, p > 0.5, average="micro")),
        ("precision", lambda y, p: sklearn_metrics.precision_score(y, p > 0.5, average="macro")),
        ("recall", lambda y, p: sklearn_metrics.recall_score(y, p > 0.5, average="macro")),
        ("average_precision", lambda y, p: sklearn_metrics.average_precision_score(y, p)),
        ("auroc", lambda y, p: sklearn_metrics.roc_auc_score(y, p)),
    ],
)
def test_metric_of_several_labels(name: str, reference: Any) -> None:
    expected = reference(THERE.numpy(), SCORES.sigmoid().numpy())
    found = value_for("multi_label", name, SCORES, THERE)
    assert math.isclose(found, expected, abs_tol=1e-6)


def test_logits_between_zero_and_one_are_still_logits() -> None:
    """torchmetrics would take a batch of them for probabilities."""
    outputs, there = torch.full((4, 2), 0.2), torch.ones(4, 2)
    assert value_for("multi_label", "accuracy", outputs, there) == 1


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mae", sklearn_metrics.mean_absolute_error),
        ("mse", sklearn_metrics.mean_squared_error),
        ("rmse", lambda y, p: sklearn_metrics.mean_squared_error(y, p) ** 0.5),
        ("r2", sklearn_metrics.r2_score),
    ],
)
def test_metric_of_a_regression(name: str, width: int, reference: Any) -> None:
    targets = torch.arange(10.0).view(5, 2)[:, :width]
    outputs = SCORES[:, :width] + targets
    found = value_for("regression", name, outputs, targets)
    assert math.isclose(found, reference(targets.numpy(), outputs.numpy()), rel_tol=1e-5)


def test_r2_of_one_example_is_no_number() -> None:
    metric = create_metrics(["r2"], 1, CPU, "regression")["r2"]
    metric.update(torch.ones(1, 1), torch.ones(1, 1))
    assert math.isnan(metric.compute())


def test_targets_that_would_be_spread_are_refused() -> None:
    metric = create_metrics(["mae"], 1, CPU, "regression")["mae"]
    with pytest.raises(ValueError, match=r"targets like the outputs, \[3, 1\], got \[3\]"):
        metric.update(torch.ones(3, 1), torch.ones(3))


@pytest.mark.parametrize("task", registered_tasks())
def test_default_metrics_are_known(task: Task) -> None:
    assert list(create_metrics(task.default_metrics, 3, CPU, task)) == list(task.default_metrics)


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("regression", "accuracy", "for task='regression'; it is for single_label and multi_label"),
        ("single_label", "mae", "for task='single_label'; it is for regression; there are acc"),
        ("multi_label", "exactmatch", "task='multi_label'; did you mean 'exact_match'"),
    ],
)
def test_name_that_does_not_fit_the_task_is_refused(task: Any, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_metrics([name], 3, CPU, task)


# --- what people pass


def test_one_metric_needs_no_list() -> None:
    assert list(create_metrics(by_hand, 3, CPU)) == ["by_hand"]
    assert list(create_metrics(MulticlassAccuracy(3), 3, CPU)) == ["multiclassaccuracy"]


def test_names_may_be_given() -> None:
    two = {"top1": MulticlassAccuracy(3), "top2": MulticlassAccuracy(3, top_k=2), "f": by_hand}
    assert list(create_metrics(two, 3, CPU)) == ["top1", "top2", "f"]
    with pytest.raises(ValueError, match=r"two metrics are called .*; name them: metrics=\{"):
        create_metrics([two["top1"], two["top2"]], 3, CPU)


def test_class_of_metrics_is_none() -> None:
    with pytest.raises(TypeError, match="metrics must be names, functions or torchmetrics objects"):
        create_metrics([MulticlassAccuracy], 3, CPU)


def test_metric_of_many_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="MulticlassAccuracy has average=None; a metric is one"):
        create_metrics([MulticlassAccuracy(3, average=None)], 3, CPU)


def test_error_rate_is_one_less_the_accuracy() -> None:
    rate = create_metrics(["error_rate"], 2, CPU)["error_rate"]
    rate.update(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 1, 1]))
    assert float(rate.compute()) == pytest.approx(1 / 3)


def test_multilabel_object_gets_probabilities_and_whole_targets() -> None:
    given, named = (
        create_metrics([metric], 2, CPU, "multi_label") for metric in (MultilabelAUROC(2), "auroc")
    )
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [3.0, -2.0]])
    for metric in (given["multilabelauroc"], named["auroc"]):
        metric.update(outputs, torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    assert given["multilabelauroc"].compute() == named["auroc"].compute()


def test_auroc_does_not_depend_on_the_size_of_batches() -> None:
    outputs = torch.tensor([[0.2, 0.9], [3.0, -1.0], [-2.0, 4.0], [0.1, 0.3]])
    targets = torch.tensor([1, 0, 1, 0])
    whole, parts = (create_metrics(["auroc"], 2, CPU)["auroc"] for _ in range(2))
    whole.update(outputs, targets)
    for rows in ([0], [1, 2], [3]):  # some of whose scores may be taken for probabilities
        parts.update(outputs[rows], targets[rows])
    assert whole.compute() == parts.compute()


# --- classes without examples in what is evaluated

ABSENT_LOGITS = torch.tensor([[3.0, 1, 0, 2], [2, 3, 0, 1], [0, 4, 1, 2], [0, 1, 0, 5]])
ABSENT_TARGETS = torch.tensor([0, 0, 1, 1])
"""Predictions are 0 1 1 3; of the classes 2 and 3 there are no examples."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("balanced_accuracy", (1 / 2 + 1 / 2) / 2),
        ("recall", (1 / 2 + 1 / 2) / 2),
        ("precision", (1 + 1 / 2) / 2),
        ("f1", (2 / 3 + 1 / 2) / 2),
        ("auroc", (1 + 1 / 2) / 2),
    ],
)
def test_means_are_over_the_classes_that_have_examples(name: str, expected: float) -> None:
    metric = create_metrics([name], 4, CPU)[name]
    for rows in (slice(0, 1), slice(1, 4)):
        metric.update(ABSENT_LOGITS[rows], ABSENT_TARGETS[rows])
    assert float(metric.compute()) == pytest.approx(expected)


def test_the_report_has_the_means_of_the_metrics() -> None:
    created = create_metrics(["precision", "recall", "f1"], 4, CPU)
    for metric in created.values():
        metric.update(ABSENT_LOGITS, ABSENT_TARGETS)
    table = Predictions(range(4), "abcd", ABSENT_TARGETS, ABSENT_LOGITS, torch.zeros(4))
    macro = table.report().macro
    assert {name: getattr(macro, name) for name in created} == pytest.approx(
        {name: float(metric.compute()) for name, metric in created.items()}
    )
    assert "means over the 2 classes that have examples" in repr(table.report())


@pytest.mark.parametrize("name", ["f1", "precision", "recall", "average_precision", "auroc"])
def test_a_label_that_no_image_has_changes_no_mean(name: str) -> None:
    more_scores = torch.cat([SCORES, torch.full((5, 1), -3.0)], dim=1)
    more_there = torch.cat([THERE, torch.zeros(5, 1)], dim=1)
    assert value_for("multi_label", name, more_scores, more_there) == pytest.approx(
        value_for("multi_label", name, SCORES, THERE)
    )


def test_a_label_that_every_image_has_leaves_the_area_under_its_curve_undefined() -> None:
    more_there = torch.cat([THERE, torch.ones(5, 1)], dim=1)
    assert value_for("multi_label", "auroc", SCORES[:, [0, 1, 2, 0]], more_there) == pytest.approx(
        value_for("multi_label", "auroc", SCORES, THERE)
    )


@pytest.mark.parametrize("name", ["f1", "auroc", "average_precision"])
def test_a_mean_over_no_class_is_no_number(name: str) -> None:
    assert math.isnan(value_for("multi_label", name, SCORES, torch.zeros(5, 3)))


# --- the whole set at once


def test_function_is_of_the_whole_set() -> None:
    def highest(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.max() + len(targets)

    assert value_of(highest) == 9 + 6


def test_function_of_no_example_is_no_number() -> None:
    metric = create_metrics([by_hand], 3, CPU)["by_hand"]
    assert math.isnan(metric.compute())


def test_function_keeps_its_value_and_forgets_the_batches() -> None:
    metric = create_metrics([by_hand], 3, CPU)["by_hand"]
    metric.update(LOGITS, TARGETS)
    assert float(metric.compute()) == float(metric.compute()) == pytest.approx(4 / 6)
    metric.reset()
    metric.update(LOGITS[:1], TARGETS[:1])
    assert float(metric.compute()) == 1


# --- torchmetrics objects that would guess what outputs are


@pytest.mark.parametrize("size", [1, 2, 6])
def test_objects_do_not_guess_batch_by_batch(size: int) -> None:
    logits = LOGITS / 5  # some rows of which lie in [0, 1]
    probabilities = logits.softmax(1)
    expected = sklearn_metrics.roc_auc_score(TARGETS, probabilities, multi_class="ovr")
    several = MetricCollection({"area": MulticlassAUROC(3), "top": MulticlassAccuracy(3)})
    created = create_metrics([MulticlassAUROC(3), several], 3, CPU)
    for metric in created.values():
        for rows in torch.split(torch.arange(6), size):
            metric.update(logits[rows], TARGETS[rows])
    assert float(created["multiclassauroc"].compute()) == pytest.approx(expected)
    assert float(created["metriccollection"].compute()["area"]) == pytest.approx(expected)


def test_objects_that_do_not_guess_get_outputs_as_they_are() -> None:
    metric = MulticlassAccuracy(3)
    assert create_metrics(metric, 3, CPU)["multiclassaccuracy"] is metric


def test_predicted_classes_are_no_logits() -> None:
    metric = create_metrics(BinaryAccuracy(), None, CPU)["binaryaccuracy"]
    metric.update(torch.tensor([0, 1, 1]), torch.tensor([0.0, 1.0, 0.0]))
    assert float(metric.compute()) == pytest.approx(2 / 3)
