"""Split conformal prediction: limits for which sets or intervals hold the truth as often as asked.

Whatever the model, if examples to come are drawn like those that limits are fitted to, and the
model has learned from neither, the truth of a new example is inside of them with at least the
probability that was asked for, and with at most 1 / (n + 1) more.

Sources: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005); for sets of
classes Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers" (2019).
"""

import math

import numpy as np

from finetune.wording import counted

ENOUGH = 100
"""So many examples give a class a limit of its own: the share that it holds is then that asked for
up to about 0.03."""

_ROUNDING = 1e-9


def fewest_examples(coverage: float) -> int:
    """The fewest examples that a coverage can be fitted to, the n for which n + 1 >= 1 / (1 - c).

    >>> fewest_examples(0.9), fewest_examples(0.99)
    (9, 99)
    """
    return math.ceil(1 / (1 - coverage) - 1 - _ROUNDING)


def check_enough(count: int, coverage: float, what: str) -> None:
    """Raises ValueError where there are too few examples. what: they are, in the singular."""
    needed = fewest_examples(coverage)
    if count < needed:
        raise ValueError(
            f"coverage={coverage:g} needs at least {counted(needed, what)}, there are {count}; "
            "take more, or a lower coverage"
        )


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest score: a new one is below it with that probability.

    scores: [n], how badly each truth fits. n must be large enough, see `fewest_examples`.

    >>> conformal_quantile(np.arange(1, 10), 0.9), conformal_quantile(np.arange(1, 100), 0.9)
    (9.0, 90.0)
    """
    position = math.ceil((len(scores) + 1) * coverage - _ROUNDING)
    return float(np.sort(scores)[position - 1])


def least_probabilities(
    true_probabilities: np.ndarray, targets: np.ndarray, class_count: int, coverage: float
) -> np.ndarray:
    """The probability from which on each class is in a set, [C].

    A class with enough examples has a limit of its own, so that its sets hold it as often as asked
    (Mondrian). All others share one, which holds for them together.

    true_probabilities: [N], of the true class. targets: [N] class numbers. Raises ValueError for
    too few examples.
    """
    check_enough(len(targets), coverage, "validation image")
    counts = np.bincount(targets, minlength=class_count)
    needed = fewest_examples(coverage)
    order = np.argsort(-counts, kind="stable")
    with_own_limit = [number for number in order.tolist() if counts[number] >= max(ENOUGH, needed)]
    # the smallest join those that share a limit until they are enough for one
    while with_own_limit and counts.sum() - counts[with_own_limit].sum() < needed:
        with_own_limit.pop()
    is_shared = ~np.isin(targets, with_own_limit)
    limits = np.empty(class_count)
    if is_shared.any():
        limits[:] = 1 - conformal_quantile(1 - true_probabilities[is_shared], coverage)
    for number in with_own_limit:
        of_class = true_probabilities[targets == number]
        limits[number] = 1 - conformal_quantile(1 - of_class, coverage)
    return limits


def class_sets(probabilities: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which classes are in the set of each example, [N, C] bool; the most probable one always is.

    probabilities: [N, C]. limits: [C], see `least_probabilities`.
    """
    is_in_set: np.ndarray = probabilities >= limits
    is_in_set[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return is_in_set
