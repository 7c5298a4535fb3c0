"""Suspicious labels: those that a model which never saw them finds improbable."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune import arguments
from finetune.interpret.suspicious import SuspiciousLabel, SuspiciousLabels, rank_suspicious
from finetune.randomness import generator

FOLDS = 5
PENALTY = 1e-2
"""The factor of the squared weights in the regression's loss, for standardised features."""
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

    probabilities: [N, C], by models that did not see the label of the example. targets: [N] class
    numbers. items: names of the examples. image: opens the image of an example, by its number; None
    if no images are known. Raises ValueError unless count >= 1.
    """
    arguments.whole_number("count", count, at_least=1)
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
    """The class probabilities of each example, by a regression that did not see its label.

    The examples are divided into folds, each with its share of every class. A multinomial logistic
    regression on the features of all other folds predicts the examples of a fold.
    features: [N, F]. targets: [N] class numbers. Returns [N, C].
    """
    fold_of = _folds(targets, classes, seed, folds)
    probabilities = torch.zeros(len(targets), classes)
    for fold in range(folds):
        is_held_out = fold_of == fold
        if not is_held_out.any():
            continue
        train_features = features[~is_held_out].float()
        mean = train_features.mean(0)
        scale = train_features.std(0).clamp_min(_SMALLEST_SCALE)
        standardised = (train_features - mean) / scale
        weight, bias = _fit_regression(standardised, targets[~is_held_out], classes)
        held_out_features = (features[is_held_out].float() - mean) / scale
        logits = held_out_features @ weight + bias
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
    """The weight [F, C] and bias [C] that minimise the penalised cross-entropy."""
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
