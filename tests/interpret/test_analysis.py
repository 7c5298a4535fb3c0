"""Counting mistakes, and the temperature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from finetune.interpret import analysis

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_confusion_matrix_and_class_scores_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    targets, predicted = np.array(rows).T
    matrix = analysis.confusion_matrix(targets, predicted, 4)
    assert (matrix == metrics.confusion_matrix(targets, predicted, labels=range(4))).all()
    expected = metrics.precision_recall_fscore_support(
        targets, predicted, labels=range(4), zero_division=0
    )
    for own, other in zip(analysis.class_scores(targets, predicted, 4), expected, strict=True):
        assert own == pytest.approx(other)


def test_most_confused_leaves_out_what_is_right_and_what_is_rare() -> None:
    matrix = np.array([[90, 2, 0], [1, 80, 5], [0, 2, 70]])
    assert analysis.most_confused(matrix, 2) == [(1, 2, 5), (0, 1, 2), (2, 1, 2)]
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        analysis.most_confused(matrix, 0)


def test_a_probability_on_an_edge_is_in_the_bin_below() -> None:
    count, confidence, accuracy = analysis.calibration_bins(
        np.array([0.5, 0.51, 1.0]), np.array([True, False, True]), 2
    )
    assert count.tolist() == [1, 2]
    assert confidence.tolist() == pytest.approx([0.5, 0.755])
    assert accuracy.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="bins must be positive, got 0"):
        analysis.calibration_bins(np.array([0.5]), np.array([True]), 0)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true: float) -> None:
    noise = np.random.default_rng(0)
    scores = noise.normal(size=(20_000, 5)) * 3
    cumulated = analysis.softmax(scores / true).cumsum(axis=1)
    targets = (noise.random((len(scores), 1)) > cumulated).sum(axis=1).clip(0, 4)
    assert analysis.fit_temperature(scores, targets) == pytest.approx(true, rel=0.05)


def test_softmax_takes_large_scores() -> None:
    assert analysis.softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]
