"""The probability from which on a class is predicted."""

import pytest
import torch

from finetune.training.thresholds import ThresholdSearch


def thresholds(scores: list[float], there: list[int]) -> tuple[float, float]:
    """Of one class: the F1 reached, and the threshold."""
    search = ThresholdSearch(1)
    search.update(torch.tensor(scores).logit().view(-1, 1), torch.tensor(there).view(-1, 1).float())
    best = search.compute()
    return best, search.thresholds[0]


@pytest.mark.parametrize(
    ("scores", "there", "f1", "threshold"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 1, 0.25),  # in the middle of the gap
        ([0.6, 0.7, 0.9, 0.95], [0, 0, 1, 1], 1, 0.8),
        ([0.4, 0.6], [1, 1], 1, 0.2),  # all are in
        ([0.1, 0.9], [0, 0], 0, 0.5),  # nothing to learn from
        ([0.2, 0.3, 0.8], [1, 0, 1], 0.8, 0.1),
    ],
)
def test_threshold_has_the_best_f1(
    scores: list[float], there: list[int], f1: float, threshold: float
) -> None:
    assert thresholds(scores, there) == pytest.approx((f1, threshold), abs=1e-6)
