import numpy as np
import pytest

from finetune.interpret.calibration import Calibration
from finetune.interpret.predictions import Predictions
from finetune.interpret.standard_error import of_share, share_text, with_error
from finetune.tasks import MultiLabel, Regression, SingleLabel, Task


def table(count: int, right: int) -> Predictions:
    """`count` examples of two classes, of which the first `right` are predicted right."""
    targets = np.zeros(count, int)
    scores = np.zeros((count, 2))
    scores[np.arange(count), (np.arange(count) >= right).astype(int)] = 1
    return Predictions(range(count), ["a", "b"], targets, scores, np.ones(count))  # type: ignore[arg-type]


def test_error_of_a_share_is_that_of_repeated_draws() -> None:
    draws = np.random.default_rng(0).binomial(341, 0.8768, 100_000) / 341
    assert of_share(0.8768, 341) == pytest.approx(draws.std(), rel=0.01)


@pytest.mark.parametrize(
    ("error", "shown"),
    [(0.05, "50.0 % ± 0.1"), (0.0499, "50.0 %"), (0.0, "50.0 %"), (None, "50.0 %")],
)
def test_error_below_half_a_unit_of_the_last_digit_is_left_out(
    error: float | None, shown: str
) -> None:
    assert with_error("50.0 %", error, 1) == shown


def test_share_that_is_no_number_has_no_error() -> None:
    assert share_text(float("nan"), 5) == "nan"


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (SingleLabel(), "accuracy"),
        (SingleLabel(), "error_rate"),
        (MultiLabel(), "exact_match"),
    ],
)
def test_share_of_examples_has_a_standard_error(task: Task, name: str) -> None:
    assert task.metric_headline(name, 0.8768, 341) == "87.7 % ± 1.8"
    assert task.metric_text(name, 0.8768, 341) == "0.8768 ± 0.0178"
    assert task.metric_errors({name: 0.8768, "loss": 0.3}, 341) == {name: of_share(0.8768, 341)}


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (SingleLabel(), "balanced_accuracy"),
        (SingleLabel(), "auroc"),
        (SingleLabel(), "loss"),
        (MultiLabel(), "accuracy"),
        (Regression(), "r2"),
    ],
)
def test_what_is_no_share_of_examples_has_none(task: Task, name: str) -> None:
    assert "±" not in task.metric_headline(name, 0.5, 100)
    assert task.metric_text(name, 0.5, 100) == "0.5000"
    assert task.metric_errors({name: 0.5}, 100) == {}


@pytest.mark.parametrize("count", [None, 0])
def test_share_of_an_unknown_number_of_examples_has_none(count: int | None) -> None:
    assert SingleLabel().metric_text("accuracy", 0.5, count) == "0.5000"


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel(), Regression()])
def test_shares_of_examples_are_metrics_of_the_task(task: Task) -> None:
    assert task.example_shares <= task.named_metrics().keys()


def test_tables_and_their_reports_say_it() -> None:
    assert repr(table(100, 90)).endswith("accuracy 0.9000 ± 0.0300)")
    assert "\n accuracy 0.9000 ± 0.0300" in repr(table(100, 90).report())
    calibration = Calibration.of(np.full(100, 0.8), np.arange(100) < 90, 15)
    assert "accuracy 0.900 ± 0.030" in repr(calibration)
