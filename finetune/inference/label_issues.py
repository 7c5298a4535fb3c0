"""Probabilities of training labels, by models that never saw them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.splitting import fold_numbers
from finetune.randomness import generator

FOLDS = 5
PENALTY = 1e-2
"""The factor of the squared weights in the regression's loss, for standardised features."""
_SMALLEST_SCALE = 1e-6


def cross_probabilities(
    features: Tensor,
    targets: Tensor,
    classes: int,
    *,
    seed: int,
    folds: int = FOLDS,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """The class probabilities of each example, by a regression that did not see its label.

    The examples are divided into folds, each with its share of every class. A multinomial logistic
    regression on the features of all other folds predicts the examples of a fold.
    features: [N, F]. targets: [N] class numbers. groups: of the examples, see `data.groups`; those
    of one are in one fold, as they would confirm each other's labels. Returns [N, C].
    """
    if groups is None:
        fold_of = _folds(targets, classes, seed, folds)
    else:
        strata = [torch.nonzero(targets == label).flatten() for label in range(classes)]
        fold_of = fold_numbers(groups, strata, min(folds, len(set(groups))), seed)
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
