"""Limits for which sets and intervals hold the truth as often as asked."""

import numpy as np
import pytest

from finetune.interpret.conformal import (
    class_sets,
    conformal_quantile,
    fewest_examples,
    least_probabilities,
)


def draw(seed: int, count: int, chances: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, C] of a model that is good, and classes that they may be wrong about."""
    noise = np.random.default_rng(seed)
    targets = noise.choice(len(chances), count, p=chances)
    logits = noise.normal(0, 1, (count, len(chances)))
    logits[np.arange(count), targets] += 1.5 - 0.5 * targets  # later classes are harder
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), targets


def fit(probabilities: np.ndarray, targets: np.ndarray, coverage: float) -> np.ndarray:
    true_probabilities = probabilities[np.arange(len(targets)), targets]
    return least_probabilities(true_probabilities, targets, probabilities.shape[1], coverage)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.99])
def test_a_new_score_is_below_the_quantile_as_often_as_asked(coverage: float) -> None:
    noise = np.random.default_rng(0)
    below = []
    for _ in range(400):
        scores = noise.exponential(size=101 + 40)
        below.append((scores[101:] <= conformal_quantile(scores[:101], coverage)).mean())
    assert coverage - 0.01 < np.mean(below) < coverage + 1 / 102 + 0.01


@pytest.mark.parametrize("coverage", [0.5, 0.75, 0.8, 0.9, 0.95, 0.99])
def test_the_fewest_examples_are_those_whose_largest_score_is_the_quantile(coverage: float) -> None:
    count = fewest_examples(coverage)
    assert conformal_quantile(np.arange(count), coverage) == count - 1
    with pytest.raises(IndexError):
        conformal_quantile(np.arange(count - 1), coverage)


def test_too_few_examples_are_an_error_with_the_number_needed() -> None:
    probabilities, targets = draw(0, 98, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"coverage=0\.99 needs at least 99 .*, there are 98"):
        fit(probabilities, targets, 0.99)


def test_large_classes_and_the_others_together_are_held_as_often_as_asked() -> None:
    chances = [0.6, 0.3, 0.06, 0.04]
    held: dict[str, list[float]] = {"0": [], "1": [], "small": []}
    for seed in range(100):
        limits = fit(*draw(seed, 600, chances), 0.9)
        assert limits[2] == limits[3] != limits[1] != limits[0]
        probabilities, targets = draw(1000 + seed, 2000, chances)
        is_held = class_sets(probabilities, limits)[np.arange(2000), targets]
        for name, rows in (("0", targets == 0), ("1", targets == 1), ("small", targets > 1)):
            held[name].append(is_held[rows].mean())
    for shares in held.values():
        assert np.mean(shares) == pytest.approx(0.905, abs=0.015)


def test_small_classes_that_are_too_few_together_are_joined_by_larger_ones() -> None:
    probabilities, targets = draw(0, 300, [0.6, 0.39, 0.01])
    assert 0 < (targets == 2).sum() < 9
    limits = fit(probabilities, targets, 0.9)
    assert limits[1] == limits[2] != limits[0]


def test_a_class_that_validation_lacks_shares_the_limit_of_the_small_ones() -> None:
    probabilities, targets = draw(0, 200, [0.9, 0.1, 0.0])
    limits = fit(probabilities, targets, 0.9)
    assert limits[2] == limits[1]


def test_a_set_is_never_empty() -> None:
    sets = class_sets(np.array([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04]]), np.array([0.5, 0.5, 0.04]))
    assert sets.tolist() == [[True, False, True], [True, False, True]]
    assert class_sets(np.array([[0.6, 0.4]]), np.ones(2)).tolist() == [[True, False]]
