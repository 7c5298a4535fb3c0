"""Suspicious labels: what a model that never saw an example's label says of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.interpret.suspicious import SuspiciousLabel, SuspiciousLabels, rank_suspicious
from finetune.randomness import generator

FOLDS = 5
PENALTY = 1e-2
"""Of the squared weights, for standardised features."""


def suspicious(
    probabilities: np.ndarray,
    targets: np.ndarray,
    items: tuple[str | int, ...],
    classes: tuple[str, ...],
    count: int,
    image: Callable[[int], Any] | None,
) -> SuspiciousLabels:
    """The first `count` of a ranking; probabilities: [N, C], out of sample."""
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    found = rank_suspicious(probabilities, targets)
    rows = [
        SuspiciousLabel(
            items[i],
            classes[targets[i]],
            classes[other],
            float(probabilities[i, other]),
            float(probabilities[i, targets[i]]),
            i,
        )
        for i, other in found[:count]
    ]
    return SuspiciousLabels(rows, len(found), len(targets), image)


def cross_probabilities(
    features: Tensor, targets: Tensor, classes: int, *, seed: int, folds: int = FOLDS
) -> np.ndarray:
    """[N, C]: of each example, by a multinomial logistic regression on the other folds.

    features: [N, F]. Folds are drawn within each class, so that each has its share of all.
    """
    fold = _folds(targets, classes, seed, folds)
    found = torch.zeros(len(targets), classes)
    for number in range(folds):
        held_out = fold == number
        if not held_out.any():
            continue
        known = features[~held_out].float()
        mean, scale = known.mean(0), known.std(0).clamp_min(1e-6)
        weight, bias = _fit((known - mean) / scale, targets[~held_out], classes)
        logits = (features[held_out].float() - mean) / scale @ weight + bias
        found[held_out] = logits.softmax(dim=1)
    return found.numpy()


def _folds(targets: Tensor, classes: int, seed: int, folds: int) -> Tensor:
    fold = torch.zeros(len(targets), dtype=torch.int64)
    for label in range(classes):
        members = torch.nonzero(targets == label).flatten()
        order = torch.randperm(len(members), generator=generator(seed, "folds", label))
        # each class begins at another fold, else the first one gets all the remainders
        fold[members[order]] = (torch.arange(len(members)) + label) % folds
    return fold


@torch.enable_grad()
def _fit(inputs: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        loss = nn.functional.cross_entropy(inputs @ weight + bias, targets)
        total = loss + PENALTY / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
