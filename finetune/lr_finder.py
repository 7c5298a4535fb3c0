"""The learning-rate range test (Smith 2015), on copies: it leaves no trace in the learner."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune import distributed
from finetune.data.loaders import Batches, next_batches
from finetune.interpret.range_test import plot_range_test
from finetune.models.group_values import LearningRates
from finetune.models.layer_groups import LayerGroups
from finetune.optim.schedules import Exponential
from finetune.randomness import isolated, key
from finetune.training.divergence import DivergenceError
from finetune.training.setup import Setup
from finetune.training.step import TrainStep
from finetune.wording import did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 0.98
"""Weight of the past in the exponential mean of the losses."""
FEWEST = 3
"""Points of a curve that rules can judge."""


@dataclass(frozen=True, slots=True)
class LearningRateCurve:
    """What a range test saw: rates, smoothed losses, and what the four rules say of them.

    factors: what each group that trained had of the rates, the largest 1. steps: that were planned.
    suggestion: the rate to pass to `fine_tune(base_lr=...)`, by the rule "valley".
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: Mapping[str, float]
    factors: Mapping[str, float]
    steps: int

    @property
    def suggestion(self) -> float:
        return self.suggestions["valley"]

    def plot(self) -> "Figure":
        """Loss over rate, pale where no rule looks, with the four suggestions marked."""
        whole = [name for name, factor in self.factors.items() if factor == 1]
        groups = "" if len(whole) == len(self.factors) else ", ".join(whole)
        judged = _judged(self.steps)
        return plot_range_test(self.lrs, self.losses, judged, self.suggestions, groups=groups)


def range_test(
    setup: Setup,
    *,
    factors: LearningRates | None = None,
    group: str | None = None,
    start_lr: float,
    end_lr: float,
    steps: int,
    stop_factor: float,
) -> LearningRateCurve:
    """Trains copies at `start_lr * (end_lr / start_lr) ** (i / steps)` times each group's factor.

    factors, group: see `relative_factors`.
    Ends early when the smoothed loss exceeds `stop_factor` times its best, or is no number. Of the
    first tenth, a mean of few batches, no loss counts: after training those are small and noisy.
    """
    if not 0 < start_lr < end_lr:
        raise ValueError(f"lr_find needs 0 < start_lr < end_lr, got {start_lr} and {end_lr}")
    if steps < 20:
        raise ValueError(f"lr_find needs at least 20 steps to judge a curve, got {steps}")
    relative = relative_factors(setup.optimizer.groups, factors, group)
    copied = setup.copied(setup.runtime)
    lrs, losses = _curve(copied, relative, Exponential(start_lr, end_lr), steps, stop_factor)
    groups = zip(copied.optimizer.groups, relative, strict=True)
    named = {group.name: factor for group, factor in groups if not group.frozen}
    return LearningRateCurve(tuple(lrs), tuple(losses), suggest(lrs, losses, steps), named, steps)


def _curve(
    setup: Setup, factors: Sequence[float], schedule: Exponential, steps: int, stop_factor: float
) -> tuple[list[float], list[float]]:
    """Rates and smoothed losses; the setup is trained."""
    groups, judged = setup.optimizer.groups, _judged(steps)
    lrs: list[float] = []
    losses: list[float] = []
    mean, best = 0.0, math.inf
    seed = key(setup.data.seed, "lr_find")
    with (
        isolated(),
        closing(_endless(setup, seed)) as batches,
        distributed.wrapped(groups.model) as net,
    ):
        step = TrainStep(net, setup, seed)
        groups.set_training_modes()
        for i in range(steps):
            lr = schedule(i / steps)
            groups.set_values("lr", [lr * factor for factor in factors])
            step_batches = next_batches(batches, setup.settings.accumulate)
            try:
                loss_sum = distributed.total(step(step_batches, 0, epoch=0, step=i)).item()
                loss = loss_sum / distributed.world_size()
            except DivergenceError:
                break
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            lrs.append(lr)
            losses.append(mean / (1 - SMOOTHING ** (i + 1)))
            if i >= judged.start:
                best = min(best, losses[-1])
            if losses[-1] > stop_factor * best and len(losses[judged]) >= FEWEST:
                break
    return lrs, losses


def relative_factors(
    groups: LayerGroups, factors: LearningRates | None, group: str | None
) -> tuple[float, ...]:
    """What each group has of the test's rate: at most 1, and 1 for a group that trains.

    factors: in any way of `LayerGroups.spread`; None: the ratios of the last plan's peaks. group:
    the only one whose rate is not 0. Raises ValueError for both, for an unknown group or a frozen
    one.
    """
    if group is not None:
        if factors is not None:
            raise ValueError("lr_find takes factors= for all groups or group= for one, not both")
        if group not in groups.names:
            hint = did_you_mean(group, groups.names)
            raise ValueError(f"no layer group is called {group!r}; {hint}")
        if groups[groups.names.index(group)].frozen:
            raise ValueError(
                f"layer group {group!r} is frozen, so that its learning rate changes nothing; "
                "unfreeze it first"
            )
        return tuple(float(name == group) for name in groups.names)
    peaks = tuple(own.peaks.get("lr", own.values.get("lr", 0.0)) for own in groups)
    rates = peaks if factors is None else groups.spread(factors)
    largest = max(rate for rate, own in zip(rates, groups, strict=True) if not own.frozen)
    if not largest > 0:
        raise ValueError(f"the learning rates were {rates}; say their ratios with factors=")
    return tuple(rate / largest for rate in rates)


def _endless(setup: Setup, seed: int) -> Batches:
    epoch = 0
    while True:  # a data set shorter than the test is gone through again
        yield from setup.data.train.epoch(seed, epoch)
        epoch += 1


def suggest(lrs: Sequence[float], losses: Sequence[float], steps: int) -> dict[str, float]:
    """The four rules on the curve without its first tenth and its last 5 points.

    lrs, losses: as recorded, [N]; cut before the first loss that is no number.
    Raises ValueError when fewer than 3 points are left.
    """
    x = np.asarray(lrs[_judged(steps)], dtype=np.float32)
    y = np.asarray(losses[_judged(steps)], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        x, y = x[: bad[0]], y[: bad[0]]
    if len(y) < FEWEST:
        raise ValueError(
            f"the loss left the range of numbers after {len(losses)} of {steps} steps; "
            "start lr_find lower or give it more steps"
        )
    return {rule.__name__: float(rule(x, y)) for rule in (valley, slide, minimum, steep)}


def _judged(steps: int) -> slice:
    """The part of the curve that the rules look at."""
    return slice(steps // 10, -5)


def valley(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The rate half-way along the longest falling run: a third in, and half a third more."""
    length = np.ones(len(losses), dtype=int)  # of the longest falling subsequence that ends here
    for i in range(1, len(losses)):
        higher = length[:i][losses[:i] > losses[i]]
        if len(higher):
            length[i] = 1 + higher.max()
    end = int(length.argmax())
    third = int(length[end]) / 3
    index = end - int(length[end]) + int(third) + int(third / 2)
    return float(lrs[max(index, 0)])  # a curve that falls nowhere has its start for a valley


def slide(
    lrs: np.ndarray, losses: np.ndarray, *, width: int = 15, threshold: float = 0.005
) -> float:
    """The highest rate before the slope changes over `width` points, seen from the end."""
    slope = np.gradient(losses)
    left = len(losses) - 1 - width
    if left < 0:
        return float(lrs[0])
    found = left
    while left >= 0 and abs(slope[left + width] - slope[left]) > threshold:
        found = left
        left -= 1
    return float(lrs[found])


def minimum(lrs: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(lrs[losses.argmin()]) / 10


def steep(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The rate at which the loss falls fastest per unit of log rate."""
    return float(lrs[(np.diff(losses) / np.diff(np.log(lrs))).argmin()])
