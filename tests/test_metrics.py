import math

import pytest
import torch
from torchmetrics import MeanSquaredError

from finetune.metrics import create_metrics

CPU = torch.device("cpu")
LOGITS = torch.tensor([[3.0, 1, 0], [2, 1, 0], [0, 4, 1], [1, 2, 0], [0, 0, 5], [9, 0, 1]])
TARGETS = torch.tensor([0, 0, 1, 0, 2, 2])
"""Predictions are 0 0 1 1 2 0: four of six right; recalls are 2/3, 1, 1/2."""


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
    ],
)
def test_named_metric_over_two_batches(name: str, expected: float) -> None:
    assert math.isclose(value_of(name), expected, abs_tol=1e-6)


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
    with pytest.raises(TypeError, match="a metric is a name, a function or a torchmetrics object"):
        create_metrics([3], 3, CPU)
