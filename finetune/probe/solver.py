"""Solves for linear layers on fixed features: a convex problem, for several weightings at once.

    mean loss of (features @ weight + bias)  +  strength / 2 * |weight|^2

The features are whitened by the Cholesky factor of `curvature * covariance + strength`, which is
about the problem's Hessian. L-BFGS then needs some 20 passes where it would need hundreds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

ExampleLosses: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(outputs [N, C], targets [N, ...]) -> losses [N], convex in the outputs."""

_BIAS_STRENGTH = 1e-4
"""Penalty of the bias: it stays finite for a class of which a fold has no example."""

_HISTORY = 10


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What is minimised, apart from the strength of the penalty.

    features: [N, F] float32, standardised. covariance: [F, F] of them. targets: [N, ...]. losses,
    curvature: see `Task.probe_losses`. weights: [K, N], how much each example counts in each of K
    problems, which are solved together because that costs little more than one of them. outputs: C.
    """

    features: Tensor
    covariance: Tensor
    targets: Tensor
    losses: ExampleLosses
    curvature: float
    weights: Tensor
    outputs: int

    @property
    def count(self) -> int:
        """How many problems there are: K."""
        return len(self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """weight: [F, K, C]. bias: [K, C]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, problem: Problem) -> "Solution":
        """Where a search begins that knows no better."""
        feature_count = problem.features.shape[1]
        weight = torch.zeros(feature_count, problem.count, problem.outputs)
        return cls(weight, torch.zeros(problem.count, problem.outputs))

    def mean(self) -> "Solution":
        """The mean of the K solutions, where the search for a single one begins."""
        return Solution(self.weight.mean(dim=1, keepdim=True), self.bias.mean(dim=0, keepdim=True))


@torch.enable_grad()
def solve(
    problem: Problem, strength: float, start: Solution, *, tolerance: float = 1e-3
) -> Solution:
    """The solution of each of the K problems.

    strength: of the penalty. start: the solution for a neighbouring strength saves passes.
    tolerance: the largest entry of the gradient, in whitened coordinates, at which a search ends.
    """
    features, curvature, count = problem.features, problem.curvature, len(problem.features)
    identity = torch.eye(features.shape[1])
    factor = torch.linalg.cholesky(curvature * problem.covariance + strength * identity)
    # weight = factor^-T @ whitened, so that features @ weight = whitened_features @ whitened
    whitened_features = torch.linalg.solve_triangular(factor, features.T, upper=False).T
    whitened = (factor.T @ start.weight.flatten(1)).requires_grad_()
    bias = start.bias.flatten().clone().requires_grad_()
    # row n * K + k is of example n in problem k
    repeated_targets = problem.targets.repeat_interleave(problem.count, dim=0)
    shares = problem.weights / problem.weights.sum(dim=1, keepdim=True)
    repeated_shares = shares.T.flatten()
    solver = torch.optim.LBFGS(
        [whitened, bias],
        max_iter=200,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
    )

    def closure() -> float:
        solver.zero_grad()
        products = whitened_features @ whitened
        losses = problem.losses((products + bias).view(-1, problem.outputs), repeated_targets)
        # strength * |weight|^2, by the definition of the factor and without solving for the weight
        penalty = whitened.square().sum() - curvature / count * products.square().sum()
        penalty_of_bias = _BIAS_STRENGTH * bias.square().sum()
        value: Tensor = losses @ repeated_shares + (penalty + penalty_of_bias) / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    solver.step(closure)  # type: ignore[no-untyped-call]
    columns = torch.linalg.solve_triangular(factor.T, whitened.detach(), upper=True)
    shape = (problem.count, problem.outputs)
    return Solution(columns.view(-1, *shape), bias.detach().view(shape))
