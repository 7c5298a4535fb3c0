"""Confusion matrices, scores, bins and the temperature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from finetune.interpret import analysis

targets_and_predictions = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60
)


@given(targets_and_predictions)
def test_confusion_matrix_and_class_scores_equal_those_of_scikit_learn(
    rows: list[tuple[int, int]],
) -> None:
    targets, predicted = np.array(rows).T
    matrix = analysis.confusion_matrix(targets, predicted, 4)
    assert (matrix == metrics.confusion_matrix(targets, predicted, labels=range(4))).all()
    expected = metrics.precision_recall_fscore_support(
        targets, predicted, labels=range(4), zero_division=0
    )
    scores = analysis.class_scores(targets, predicted, 4)
    for actual_values, expected_values in zip(scores, expected, strict=True):
        assert actual_values == pytest.approx(expected_values)


def test_most_confused_leaves_out_right_predictions_and_rare_mistakes() -> None:
    matrix = np.array([[90, 2, 0], [1, 80, 5], [0, 2, 70]])
    assert analysis.most_confused(matrix, 2) == [(1, 2, 5), (0, 1, 2), (2, 1, 2)]
    with pytest.raises(ValueError, match="min_count must be a whole number of at least 1, got 0"):
        analysis.most_confused(matrix, 0)


def test_a_probability_on_an_edge_is_in_the_bin_below() -> None:
    count, confidence, accuracy = analysis.calibration_bins(
        np.array([0.5, 0.51, 1.0]), np.array([True, False, True]), 2
    )
    assert count.tolist() == [1, 2]
    assert confidence.tolist() == pytest.approx([0.5, 0.755])
    assert accuracy.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"bins must be a whole number .* got 0"):
        analysis.calibration_bins(np.array([0.5]), np.array([True]), 0)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_fit_temperature_recovers_the_temperature_that_labels_were_drawn_with(true: float) -> None:
    noise = np.random.default_rng(0)
    scores = noise.normal(size=(20_000, 5)) * 3
    cumulated = analysis.softmax(scores / true).cumsum(axis=1)
    targets = (noise.random((len(scores), 1)) > cumulated).sum(axis=1).clip(0, 4)
    assert analysis.fit_temperature(scores, targets) == pytest.approx(true, rel=0.05)


def test_softmax_of_large_scores_does_not_overflow() -> None:
    assert analysis.softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]
