"""LinearProbe: the best linear head on fixed features, its strength chosen by cross-validation."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from finetune import arguments
from finetune.probe.folds import assign_folds
from finetune.probe.solver import ExampleLosses, Problem, Solution, solve
from finetune.tables import Table
from finetune.tasks import Task
from finetune.wording import number

FOLDS = 5
"""Of the cross-validation that chooses the strength of the penalty."""

STRENGTHS = tuple(10 ** (half_decade / 2) for half_decade in range(1, -9, -1))
"""Penalties that are tried, from strong to weak: each solution is a start for the next one."""

_PATIENCE = 2
"""Strengths without a gain after which weaker ones are not tried."""

_LARGE = 2e9
"""Examples x features x outputs, from which on one fold is held out instead of all: each of five
would take minutes, and so many examples tell the strengths apart by a fifth of them."""


@dataclass(frozen=True, slots=True)
class StrengthRow:
    """A strength of the penalty, and the mean loss of the examples that were held out with it."""

    strength: float
    loss: float


@dataclass(frozen=True, eq=False, repr=False)
class LinearProbe:
    """The best linear head on fixed features.

    weight: [C, F] and bias: [C], for features as they are: their standardisation is folded in.
    strength: of the L2 penalty on the weights of standardised features, beside the mean loss.
    path: the strengths that were tried, strong ones first. held_out: [N, C], the outputs for each
    example of a head that was fitted without it. was_held_out: [N], False for an example that no
    fold leaves out: the only one of its class, or, of large data, four fifths.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    path: tuple[StrengthRow, ...]
    held_out: Tensor
    was_held_out: Tensor

    def __repr__(self) -> str:
        outputs, features = self.weight.shape
        return (
            f"LinearProbe({features:,} features, {outputs:,} outputs, strength "
            f"{number(self.strength)}, held-out loss {number(self.loss)})"
        )

    def _repr_html_(self) -> str:
        rows = [[number(row.strength), number(row.loss)] for row in self.path]
        return Table.of(["strength", "held-out loss"], rows).html()

    @property
    def loss(self) -> float:
        """The mean loss of the held-out examples, at the strength that was chosen."""
        return min(row.loss for row in self.path)

    def outputs(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, C]"""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: Tensor,
    targets: Tensor,
    task: Task,
    classes: Sequence[str],
    *,
    losses: ExampleLosses | None = None,
    example_weights: Tensor | None = None,
    groups: Sequence[Hashable] | None = None,
    blocks: Sequence[int] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> LinearProbe:
    """Fits a linear head, with the strength of its penalty chosen on the given examples alone.

    It is the minimum of a convex function: softmax regression for one class an image, a logistic
    regression for each of several labels, ridge regression for numbers, see `Task.probe_losses`.
    The strength is the one with the smallest loss of examples that were held out, each fold in turn
    (k-fold cross-validation, Stone 1974). The same arguments give the same probe.
    features: [N, F], or [V, N, F] for several views of the images, of which all views of an image
    are held out together; `held_out` is then the mean over the views. targets: [N, ...] of `task`.
    losses: what is minimised; None is `task.probe_losses`. example_weights: [N], None is 1 each.
    groups: what a fold must not tear apart, one for each example, such as the patient. blocks: how
    many features each backbone gives, whose scales have nothing to do with each other; None: all
    are of one.
    Raises ValueError for features that are not finite, and for fewer than two folds.
    """
    arguments.whole_number("folds", folds, at_least=2)
    views = features.float()
    if views.ndim == 2:
        views = views[None]
    view_count, count, feature_count = views.shape
    if not bool(views.isfinite().all()):
        raise ValueError("the features are NaN or infinite; the backbone's weights may be broken")
    if losses is None:
        losses = task.probe_losses
    if example_weights is None:
        example_weights = torch.ones(count)
    unit = _Unit.of(task, targets)
    if task.scales_outputs:
        targets = unit.standardised(targets)
    rows = views.flatten(0, 1)
    mean, scale = _scaling(rows, [feature_count] if blocks is None else blocks)
    coordinates, directions = _rotated((rows - mean) / scale)
    fold_of = assign_folds(task.stratify(targets, classes), groups, count, folds, seed)
    weights = _training_weights(fold_of, example_weights, folds)
    output_count = task.output_count(classes)
    if count * feature_count * output_count > _LARGE:
        weights = weights[:1]
        fold_of = torch.where(fold_of == 0, 0, -1)
    problem = Problem(
        coordinates,
        coordinates.T @ coordinates / len(coordinates),
        targets.repeat(view_count, *[1] * (targets.ndim - 1)),
        losses,
        task.probe_curvature,
        weights.repeat(1, view_count),
        output_count,
    )
    path: list[StrengthRow] = []
    best_row = StrengthRow(STRENGTHS[0], math.inf)
    best_start = solution = Solution.zeros(problem)
    best_held_out = torch.zeros(count, output_count)
    rows_since_best = 0
    for strength in STRENGTHS:
        solution = solve(problem, strength, solution)
        held_out = _held_out_outputs(problem, solution, fold_of, view_count)
        held_out_losses = losses(held_out, targets)
        loss = _weighted_mean(held_out_losses, example_weights * (fold_of >= 0))
        row = StrengthRow(strength, loss)
        path.append(row)
        if row.loss < best_row.loss:
            best_row, best_start, best_held_out = row, solution.mean(), held_out
            rows_since_best = 0
            continue
        rows_since_best += 1
        if rows_since_best == _PATIENCE:
            break
    whole = replace(problem, weights=example_weights.repeat(1, view_count))
    final = solve(whole, best_row.strength, best_start, tolerance=1e-4)
    standardised_weight = directions @ final.weight[:, 0]
    weight = (standardised_weight / scale[:, None]).T.contiguous()
    bias = final.bias[0] - weight @ mean
    return LinearProbe(
        weight * unit.scale[:, None],
        bias * unit.scale + unit.mean,
        best_row.strength,
        tuple(path),
        best_held_out * unit.scale + unit.mean,
        fold_of >= 0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """The unit of the outputs: mean and scale [C] of targets that are numbers; 0 and 1 of others.

    Grams and tonnes have the same probe but for its unit.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, task: Task, targets: Tensor) -> "_Unit":
        if not task.scales_outputs:
            return cls(torch.zeros(1), torch.ones(1))
        deviation, mean = torch.std_mean(targets.float(), dim=0, correction=0)
        return cls(mean, torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def standardised(self, targets: Tensor) -> Tensor:
        return (targets - self.mean) / self.scale


def _scaling(rows: Tensor, blocks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean of each feature and what it is divided by, [F].

    That is `sqrt(variance + mean variance of its block)`. Dividing by the standard deviation alone
    would give a feature that hardly varies the same say as all others: on 1,000 photos its probe is
    half a point less accurate, and its large weights break as soon as the backbone trains.
    """
    mean = rows.mean(dim=0)
    variance = (rows - mean).square().mean(dim=0)
    typical = []
    for block in torch.split(variance, list(blocks)):
        typical.append(block.mean().expand(len(block)))
    scale = (variance + torch.cat(typical)).sqrt()
    return mean, torch.where(scale > 0, scale, torch.ones_like(scale))


def _rotated(standardised: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [N, R] and directions [F, R], orthonormal: `coordinates @ directions.T` is it.

    With fewer examples than features, all solutions lie in the span of the examples, R = N.
    """
    count, feature_count = standardised.shape
    if count >= feature_count:
        return standardised, torch.eye(feature_count)
    directions, triangle = torch.linalg.qr(standardised.T)
    return triangle.T.contiguous(), directions


def _training_weights(fold_of: Tensor, example_weights: Tensor, folds: int) -> Tensor:
    """[K, N]: row k is without the examples of fold k."""
    rows = []
    for fold in range(folds):
        rows.append(example_weights * (fold_of != fold))
    return torch.stack(rows)


def _held_out_outputs(
    problem: Problem, solution: Solution, fold_of: Tensor, view_count: int
) -> Tensor:
    """[N, C]: of each example the outputs of the problem that lacks it, the mean over its views.

    An example that is never held out gets those of the first problem.
    """
    outputs = torch.empty(len(fold_of), problem.outputs)
    features = problem.features.view(view_count, len(fold_of), -1)
    problem_of = fold_of.clamp_min(0)
    for number_of_problem in range(problem.count):
        rows = problem_of == number_of_problem
        weight, bias = solution.weight[:, number_of_problem], solution.bias[number_of_problem]
        outputs[rows] = features[:, rows].mean(dim=0) @ weight + bias
    return outputs


def _weighted_mean(values: Tensor, weights: Tensor) -> float:
    """Of doubles, so that the choice does not hang on the rounding of a sum."""
    return float((values.double() * weights).sum() / weights.sum().clamp_min(1e-12))
