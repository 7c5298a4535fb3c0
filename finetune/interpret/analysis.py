"""Where a classifier fails, counted: pure functions of arrays."""

from typing import NamedTuple

import numpy as np


def softmax(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of the last dimension, in float64; temperature: what scores are divided by.

    >>> softmax(np.log([[1.0, 3.0]])).tolist()
    [[0.25, 0.75]]
    """
    found: np.ndarray = scores.astype(np.float64)  # all else in place: tables may be large
    found -= found.max(axis=-1, keepdims=True)
    found /= temperature
    np.exp(found, out=found)
    found /= found.sum(axis=-1, keepdims=True)
    return found


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: row t, column p counts examples of class t predicted as p.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def most_confused(matrix: np.ndarray, min_count: int = 1) -> list[tuple[int, int, int]]:
    """(target, predicted, count) of the mistakes made at least `min_count` times, most first.

    >>> most_confused(np.array([[5, 1, 0], [3, 5, 0], [0, 0, 5]]))
    [(1, 0, 3), (0, 1, 1)]
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    rows = [(int(t), int(p), int(off[t, p])) for t, p in np.argwhere(off >= min_count)]
    return sorted(rows, key=lambda row: -row[2])


class ClassScores(NamedTuple):
    """Of each class, [C]; 0 where there is nothing to divide by."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_scores(targets: np.ndarray, predicted: np.ndarray, classes: int) -> ClassScores:
    """Of class numbers [N]; a matrix of all classes by all would not fit where they are many."""
    hits = targets[targets == predicted]
    counts = (np.bincount(numbers, minlength=classes) for numbers in (hits, targets, predicted))
    return class_scores_of(*counts)


def class_scores_of(hits: np.ndarray, support: np.ndarray, claimed: np.ndarray) -> ClassScores:
    """precision: share of the predicted that are right. recall: share of the class that is found.
    f1: their harmonic mean. support: examples of the class.

    hits: examples of the class that are predicted as it; claimed: all that are. [C].
    """
    precision = hits / np.maximum(claimed, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + claimed, 1)
    return ClassScores(precision, recall, f1, support)


def calibration_bins(
    confidences: np.ndarray, correct: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean confidence and accuracy in each of `bins` equal parts of (0, 1]; NaN in empty
    ones."""
    if bins < 1:
        raise ValueError(f"bins must be positive, got {bins}")
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, confidences, bins) / count
        accuracy = np.bincount(place, correct.astype(float), bins) / count
    return count, confidence, accuracy


def fit_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """The T in [0.01, 100] for which softmax(scores / T) has the least negative log-likelihood.

    scores: [N, C] logits. That loss is convex in 1 / T, so its slope is bisected.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (2017).
    """
    scores = scores.astype(np.float64)
    own = scores[np.arange(len(scores)), targets]
    low, high = np.log(0.01), np.log(100.0)  # of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        expected = (softmax(scores * np.exp(middle)) * scores).sum(axis=1)
        low, high = (low, middle) if (expected - own).mean() > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def r2_scores(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """[K]: of each target, 1 - (sum of squared errors) / (sum of squares around its mean).

    targets, outputs: [N, K]. NaN for fewer than two examples. A target that never varies has no
    variance to explain: it counts 1 if every output is it, else 0, as in scikit-learn.

    >>> r2_scores(np.array([[0.0], [1e-9]]), np.array([[0.0], [2e-9]])).tolist()
    [-1.0]
    """
    targets, outputs = targets.astype(np.float64), outputs.astype(np.float64)
    if len(targets) < 2:
        return np.full(targets.shape[1], np.nan)
    squared_errors = ((outputs - targets) ** 2).sum(axis=0)
    around_mean = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    varies = (targets != targets[0]).any(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = 1 - squared_errors / around_mean
    scores: np.ndarray = np.where(varies, explained, squared_errors == 0)
    return scores


def best_threshold(probabilities: np.ndarray, is_present: np.ndarray) -> float:
    """The probability from which on predicting a class gives its best F1; 0.5 without an example.

    probabilities: [N] in [0, 1]. is_present: [N] bool. It lies in the middle between the lowest
    probability that is predicted and the next one below; of thresholds that are equally good, the
    one next to 0.5.
    """
    if not is_present.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    sorted_probabilities = probabilities[order].astype(np.float64)
    # predicting the k + 1 highest probabilities, for every k at which the next one is lower
    is_border = np.append(np.diff(sorted_probabilities) < 0, True)
    hits = np.cumsum(is_present[order])[is_border]
    predicted = np.arange(1, len(order) + 1)[is_border]
    f1 = 2 * hits / (predicted + is_present.sum())
    lowest = sorted_probabilities[is_border]
    next_below = np.append(lowest[1:], 0.0)
    middles = (lowest + next_below) / 2
    equally_good = np.flatnonzero(f1 >= f1.max() - 1e-7)
    nearest = equally_good[np.abs(middles[equally_good] - 0.5).argmin()]
    return float(middles[nearest])
