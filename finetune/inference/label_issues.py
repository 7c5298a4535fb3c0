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
_SMALLEST_SCALE = 1e-6


def suspicious_labels(
    probabilities: np.ndarray,
    targets: np.ndarray,
    items: tuple[str | int, ...],
    classes: tuple[str, ...],
    count: int,
    image: Callable[[int], Any] | None,
) -> SuspiciousLabels:
    """The `count` most suspicious labels, or all of them where there are fewer.

    probabilities: [N, C], of models that did not see the label. targets: [N] class numbers. items:
    names of the examples. image: opens the image of a row.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    ranking = rank_suspicious(probabilities, targets)
    rows = []
    for number, likelier_class in ranking[:count]:
        label = targets[number]
        row = SuspiciousLabel(
            item=items[number],
            label=classes[label],
            looks_like=classes[likelier_class],
            probability=float(probabilities[number, likelier_class]),
            own_probability=float(probabilities[number, label]),
            number=number,
        )
        rows.append(row)
    return SuspiciousLabels(rows, total=len(ranking), examined=len(targets), image=image)


def cross_probabilities(
    features: Tensor, targets: Tensor, classes: int, *, seed: int, folds: int = FOLDS
) -> np.ndarray:
    """[N, C]: of each example, by a multinomial logistic regression on the other folds.

    features: [N, F]. targets: [N] class numbers. Folds are drawn within each class, so that each
    has its share of all.
    """
    fold_of = _folds(targets, classes, seed, folds)
    probabilities = torch.zeros(len(targets), classes)
    for fold in range(folds):
        is_held_out = fold_of == fold
        if not is_held_out.any():
            continue
        known_features = features[~is_held_out].float()
        mean = known_features.mean(0)
        scale = known_features.std(0).clamp_min(_SMALLEST_SCALE)
        standardised = (known_features - mean) / scale
        weight, bias = _fit_regression(standardised, targets[~is_held_out], classes)
        logits = (features[is_held_out].float() - mean) / scale @ weight + bias
        probabilities[is_held_out] = logits.softmax(dim=1)
    return probabilities.numpy()


def _folds(targets: Tensor, classes: int, seed: int, folds: int) -> Tensor:
    """The fold of each example, [N] int64."""
    fold_of = torch.zeros(len(targets), dtype=torch.int64)
    for label in range(classes):
        members = torch.nonzero(targets == label).flatten()
        order = torch.randperm(len(members), generator=generator(seed, "folds", label))
        # each class begins at another fold, else the first one gets all the remainders
        fold_of[members[order]] = (torch.arange(len(members)) + label) % folds
    return fold_of


@torch.enable_grad()
def _fit_regression(inputs: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight [F, C] and bias [C] with the least penalised cross-entropy."""
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        loss = nn.functional.cross_entropy(inputs @ weight + bias, targets)
        penalised = loss + PENALTY / 2 * weight.square().sum()
        penalised.backward()  # type: ignore[no-untyped-call]
        return penalised.item()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
