"""Probabilities of training labels, by models that never saw them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from finetune.data.splitting import fold_numbers
from finetune.probe.solver import Problem, Solution, solve
from finetune.randomness import generator
from finetune.tasks import SingleLabel

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
    rows = features.float()
    standardised = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp_min(_SMALLEST_SCALE)
    covariance = standardised.T @ standardised / len(rows)
    task = SingleLabel()
    probabilities = torch.zeros(len(targets), classes)
    for fold in range(int(fold_of.max()) + 1):
        is_held_out = fold_of == fold
        # one problem at a time: solved together, the search for one would depend on all labels
        problem = Problem(
            standardised,
            covariance,
            targets,
            task.probe_losses,
            task.probe_curvature,
            (~is_held_out).float()[None],
            classes,
        )
        solution = solve(problem, PENALTY, Solution.zeros(problem))
        logits = standardised[is_held_out] @ solution.weight[:, 0] + solution.bias[0]
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
