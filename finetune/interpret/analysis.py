"""How good predictions are, and where they fail: pure functions of arrays."""

from typing import NamedTuple

import numpy as np

from finetune import arguments

_MOST_BINS = 100_000


def softmax(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities over the last dimension, in float64.

    scores: [..., C] logits. temperature: what the scores are divided by, positive.

    >>> softmax(np.log([[1.0, 3.0]])).tolist()
    [[0.25, 0.75]]
    """
    # one copy, and all else in place: tables may be large
    probabilities: np.ndarray = scores.astype(np.float64)
    probabilities -= probabilities.max(axis=-1, keepdims=True)
    probabilities /= temperature
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, as int64 [classes, classes], of class t (row) predicted as class p (column).

    targets, predicted: [N] class numbers.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def most_confused(matrix: np.ndarray, min_count: int = 1) -> list[tuple[int, int, int]]:
    """The mistakes made at least `min_count` times, as (target, predicted, count), most first.

    matrix: counts [C, C]. Raises ValueError unless 1 <= min_count.

    >>> most_confused(np.array([[5, 1, 0], [3, 5, 0], [0, 0, 5]]))
    [(1, 0, 3), (0, 1, 1)]
    """
    arguments.whole_number("min_count", min_count, at_least=1)
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    frequent = np.argwhere(mistakes >= min_count).tolist()
    rows = [(target, predicted, int(matrix[target, predicted])) for target, predicted in frequent]
    return sorted(rows, key=lambda row: -row[2])


class ClassScores(NamedTuple):
    """Scores of each class, [C]; 0 where the denominator is 0.

    precision: share of the examples predicted as the class that are of it. recall: share of the
    examples of the class that are predicted as it. f1: harmonic mean of the two. support: number of
    examples of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_scores(targets: np.ndarray, predicted: np.ndarray, classes: int) -> ClassScores:
    """Scores of each class for class numbers [N]."""
    # counted without a confusion matrix, whose size is the square of the number of classes
    right = targets[targets == predicted]
    hits = np.bincount(right, minlength=classes)
    support = np.bincount(targets, minlength=classes)
    claimed = np.bincount(predicted, minlength=classes)
    return class_scores_of(hits, support, claimed)


def class_scores_of(hits: np.ndarray, support: np.ndarray, claimed: np.ndarray) -> ClassScores:
    """Scores of each class for counts [C].

    hits: examples of the class that are predicted as it. support: examples of the class. claimed:
    examples that are predicted as the class.
    """
    precision = hits / np.maximum(claimed, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + claimed, 1)
    return ClassScores(precision, recall, f1, support)


def mean_over_present(values: np.ndarray, is_present: np.ndarray) -> float:
    """The mean of a value of each class, [C], over the classes that are present.

    A class is present if it has examples in what is evaluated; of one without any nothing is known.
    is_present: [C] bool. NaN if no class is present.

    >>> mean_over_present(np.array([0.5, 1.0, 0.0]), np.array([True, True, False]))
    0.75
    """
    if not is_present.any():
        return float("nan")
    return float(values[is_present].mean())


def calibration_bins(
    confidences: np.ndarray, correct: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean confidence and accuracy in each of `bins` equal parts of (0, 1].

    confidences: [N] probabilities of the predicted class. correct: [N] bool. Returns three arrays
    [bins]; confidence and accuracy are NaN in empty bins. Raises ValueError unless 1 <= bins.
    """
    arguments.whole_number("bins", bins, at_least=1, at_most=_MOST_BINS)
    bin_numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(bin_numbers, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        confidence = np.bincount(bin_numbers, confidences, bins) / count
        accuracy = np.bincount(bin_numbers, correct.astype(float), bins) / count
    return count, confidence, accuracy


def fit_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """The T in [0.01, 100] for which softmax(scores / T) has the least negative log-likelihood.

    scores: [N, C] logits. targets: [N] class numbers.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (2017).
    Raises ValueError for scores that are not finite.
    """
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a temperature can't be fitted: the model gives NaN or infinite outputs")
    target_scores = scores[np.arange(len(scores)), targets]
    # The loss is convex in 1 / T. Its slope is the mean of (expected score - score of the target),
    # whose sign says in which half of the interval, bisected on a logarithmic scale, it is least.
    low, high = np.log(0.01), np.log(100.0)
    for _ in range(60):
        middle = (low + high) / 2
        probabilities = softmax(scores * np.exp(middle))
        expected_scores = (probabilities * scores).sum(axis=1)
        slope = (expected_scores - target_scores).mean()
        if slope > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def r2_scores(targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """R2 of each target, [K]: 1 - (sum of squared errors) / (sum of squares around its mean).

    targets, outputs: [N, K]. NaN for fewer than two examples. A target that never varies has no
    variance to explain: its R2 is 1 if every output equals it, else 0, as in scikit-learn.

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
    """The threshold of a class's probability that gives the best F1; 0.5 if it has no examples.

    The threshold lies in the middle between two neighbouring probabilities. Of thresholds that are
    equally good, the one nearest to 0.5 is returned.

    probabilities: [N] in [0, 1]. is_present: [N] bool, whether the example is of the class.
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
    equally_good = np.flatnonzero(f1 >= f1.max() - 1e-7)  # up to rounding
    nearest = equally_good[np.abs(middles[equally_good] - 0.5).argmin()]
    return float(middles[nearest])
