"""The learning-rate range test (Smith 2015), on copies: it leaves no trace in the learner."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from finetune import arguments, distributed
from finetune.data.loaders import Batch, Batches, next_batches
from finetune.interpret.figure import as_png
from finetune.interpret.range_test import plot_range_test
from finetune.models.group_values import LearningRates
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.modes import usual_modes
from finetune.optim.schedules import Exponential
from finetune.randomness import isolated, key
from finetune.training.divergence import DivergenceError
from finetune.training.frozen.feature_cache import FeatureCache, head_on_features
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.phase import Phase
from finetune.training.setup import Setup
from finetune.training.step import TrainStep
from finetune.wording import did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 0.98
"""Weight of the past in the exponential mean of the losses."""
FEWEST = 3
"""The least number of points on which the rules can judge a curve."""
NAME = "lr_find"

Tell: TypeAlias = Callable[[str, int, int, str], object]
"""Hears what is being done, how many of how many are done, and of which unit."""


@dataclass(frozen=True, slots=True, repr=False)
class LearningRateCurve:
    """The result of a range test: rates, smoothed losses, and the suggestions of the four rules.

    A notebook shows it as the figure that `plot` draws.

    lrs, losses: one of each per step. suggestions: by the name of the rule. factors: the share of
    the rate that each group that trained had; the largest share is 1. steps: how many were planned.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: Mapping[str, float]
    factors: Mapping[str, float]
    steps: int

    @property
    def suggestion(self) -> float:
        """The rate to pass to `fine_tune(base_lr=...)`, by the rule "valley"."""
        return self.suggestions["valley"]

    def plot(self) -> "Figure":
        """Loss over rate, pale where no rule looks, with the four suggestions marked."""
        groups_at_full_rate = [name for name, factor in self.factors.items() if factor == 1]
        # the axis names groups only where they differ
        groups = ""
        if len(groups_at_full_rate) < len(self.factors):
            groups = ", ".join(groups_at_full_rate)
        judged = _judged_part(self.steps)
        return plot_range_test(self.lrs, self.losses, judged, self.suggestions, groups=groups)

    def __repr__(self) -> str:
        return (
            f"LearningRateCurve(suggestion {self.suggestion:.2g}, {len(self.lrs)} of {self.steps} "
            f"steps from {self.lrs[0]:.2g} to {self.lrs[-1]:.2g})"
        )

    def _repr_png_(self) -> bytes:
        return as_png(self.plot())


@usual_modes()
def range_test(
    setup: Setup,
    *,
    factors: LearningRates | None = None,
    group: str | None = None,
    start_lr: float,
    end_lr: float,
    steps: int,
    stop_factor: float,
    tell: Tell = lambda *_: None,
) -> LearningRateCurve:
    """Trains a copy at `start_lr * (end_lr / start_lr) ** (i / steps)` times each group's factor.

    factors, group: see `relative_factors`. tell: hears how far the test is.
    Where only the last group's rate is not 0, the others are frozen on the copy, as in the first
    phase of `fine_tune`; and as there, their outputs are kept where they can be, so that every
    image goes through them once, in the view of validation and without mixing.
    The test ends early when the smoothed loss exceeds `stop_factor` times its best, or when the
    loss is not finite. The first tenth does not count for the best: its smoothed losses are means
    of few batches, which for a trained model are small and noisy.
    Raises ValueError where the loss is not finite before the rules can judge the curve.
    """
    arguments.real_number("end_lr", end_lr, above=0)
    arguments.real_number("start_lr", start_lr, above=0, below=end_lr)
    arguments.whole_number("steps", steps, at_least=20)  # a curve of fewer can't be judged
    if stop_factor != math.inf:  # which never stops
        arguments.real_number("stop_factor", stop_factor, above=1)
    if group is not None:
        arguments.text("group", group)
    relative = relative_factors(setup.optimizer.groups, factors, group)
    copied = setup.copied()
    _freeze_what_stays(copied, relative)
    schedule = Exponential(start_lr, end_lr)
    with isolated(), _on_kept_features(copied, steps, tell) as training:
        lrs, losses = _curve(training, relative, schedule, steps, stop_factor, tell)
    factor_of_group = {}
    for layer_group, factor in zip(setup.optimizer.groups, relative, strict=True):
        if not layer_group.frozen:
            factor_of_group[layer_group.name] = factor
    suggestions = suggest(lrs, losses, steps)
    return LearningRateCurve(tuple(lrs), tuple(losses), suggestions, factor_of_group, steps)


def _freeze_what_stays(setup: Setup, factors: Sequence[float]) -> None:
    """Freezes all groups but the last, if no other one has a rate."""
    groups = setup.optimizer.groups
    for group, factor in zip(groups[:-1], factors[:-1], strict=True):
        if factor and not group.frozen:
            return
    groups.freeze_to(len(groups) - 1)


@contextmanager
def _on_kept_features(setup: Setup, steps: int, tell: Tell) -> Iterator[Setup]:
    """Gives the setup to train with: one on features if only the head trains, and they are kept."""
    cache = _feature_cache(setup, steps)
    if cache is None:
        yield setup
        return
    with cache.suffix.active():
        with closing(cache.fill_training(0)) as precomputed:
            for event in precomputed:
                tell(f"{NAME}, features", event.done, event.total, "images")
        yield cache.setup


def _feature_cache(setup: Setup, steps: int) -> FeatureCache | None:
    """What keeps the outputs of all groups but the last; None where they train, or it can't."""
    groups = setup.optimizer.groups
    if not all(group.frozen for group in groups[:-1]):
        return None
    # the steps of a short test on much data do not even see every image
    if steps < setup.steps_per_epoch:
        return None
    prefixes = FrozenPrefixes(setup)
    if head_on_features(setup, prefixes, views=1) is None:
        return None
    groups.set_training_modes()
    phase = Phase(NAME, 1, len(groups) - 1, {}, views=1)
    return FeatureCache.create(setup, phase, 0, prefixes)


def _curve(
    setup: Setup,
    factors: Sequence[float],
    schedule: Exponential,
    steps: int,
    stop_factor: float,
    tell: Tell,
) -> tuple[list[float], list[float]]:
    """Trains the setup; returns the rates and the smoothed losses of the steps."""
    groups = setup.optimizer.groups
    judged = _judged_part(steps)
    lrs: list[float] = []
    losses: list[float] = []
    mean = 0.0
    best = math.inf
    seed = key(setup.data.seed, NAME)
    with (
        closing(_endless(setup, seed)) as batches,
        setup.optimizer.weights.training(),
    ):
        step = TrainStep(distributed.averaged(setup.model), setup, seed)
        groups.set_training_modes()
        for number in range(steps):
            lr = schedule(number / steps)
            groups.set_values("lr", [lr * factor for factor in factors])
            step_batches = next_batches(batches, setup.settings.accumulate)
            loss = _train(step, step_batches, number)
            tell(NAME, number + 1, steps, "steps")
            if loss is None:  # the loss ignores all targets of this step
                continue
            if not math.isfinite(loss):
                if len(losses[judged]) < FEWEST:
                    raise ValueError(_loss_was_not_finite(number, steps))
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smoothed = mean / (1 - SMOOTHING ** (len(losses) + 1))  # the mean began at 0
            lrs.append(lr)
            losses.append(smoothed)
            if number >= judged.start:
                best = min(best, smoothed)
            # a curve that explodes early goes on until the rules can judge it
            if smoothed > stop_factor * best and len(losses[judged]) >= FEWEST:
                break
    return lrs, losses


def _train(step: TrainStep, batches: list[Batch], number: int) -> float | None:
    """Makes one step; returns its mean loss over all processes, NaN if the step diverged.

    None for a step none of whose targets count.
    """
    try:
        loss = step(batches, 0, epoch=0, step=number)
    except DivergenceError:
        return math.nan
    if loss is None:
        return None
    return distributed.total(loss).item() / distributed.world_size()


def relative_factors(
    groups: LayerGroups, factors: LearningRates | None, group: str | None
) -> tuple[float, ...]:
    """The share of the test's rate that each group has; the largest of a group that trains is 1.

    factors: ratios of the groups' rates, in any form that `LayerGroups.spread` takes; None takes
    those of the last plan's peaks. group: the name of the only group whose rate is not 0.
    Raises ValueError for both of them, for an unknown group and for a frozen one.
    """
    if group is not None:
        if factors is not None:
            raise ValueError("lr_find takes factors= for all groups or group= for one, not both")
        _check_trains(groups, group)
        return tuple(float(name == group) for name in groups.names)
    if factors is None:
        rates = tuple(_last_rate(layer_group) for layer_group in groups)
    else:
        rates = groups.spread(factors)
    trained_rates = []
    for layer_group, rate in zip(groups, rates, strict=True):
        if not layer_group.frozen:
            trained_rates.append(rate)
    largest = max(trained_rates)
    if not largest > 0:
        raise ValueError(f"the learning rates were {rates}; say their ratios with factors=")
    return tuple(rate / largest for rate in rates)


def _check_trains(groups: LayerGroups, name: str) -> None:
    if name not in groups.names:
        hint = did_you_mean(name, groups.names)
        raise ValueError(f"group={name!r} is no layer group; {hint}")
    if groups[groups.names.index(name)].frozen:
        raise ValueError(
            f"layer group {name!r} is frozen, so that its learning rate changes nothing; "
            "unfreeze it first"
        )


def _last_rate(group: LayerGroup) -> float:
    """The peak of the last plan, or before the first one the optimizer's rate."""
    if "lr" in group.peaks:
        return group.peaks["lr"]
    return group.values.get("lr", 0.0)


def _endless(setup: Setup, seed: int) -> Batches:
    """The training batches, epoch after epoch: a data set may be shorter than the test."""
    epoch = 0
    while True:
        yield from setup.data.train.epoch(seed, epoch)
        epoch += 1


def suggest(lrs: Sequence[float], losses: Sequence[float], steps: int) -> dict[str, float]:
    """The rates that the four rules suggest, by the names of the rules.

    The rules see the curve without its first tenth, without its last 5 points, and only up to the
    first non-finite loss. lrs, losses: as recorded, [N]. steps: how many were planned.
    Raises ValueError if fewer than 3 points are left, and says whether a non-finite loss is why.
    """
    judged = _judged_part(steps)
    judged_lrs = np.asarray(lrs[judged], dtype=np.float32)
    judged_losses = np.asarray(losses[judged], dtype=np.float32)
    non_finite = np.flatnonzero(~np.isfinite(judged_losses))
    if len(non_finite):
        judged_lrs = judged_lrs[: non_finite[0]]
        judged_losses = judged_losses[: non_finite[0]]
    if len(judged_losses) < FEWEST:
        finite_count = int(np.isfinite(losses).cumprod().sum())
        if finite_count < len(losses):
            raise ValueError(_loss_was_not_finite(finite_count, steps))
        raise ValueError(
            f"the curve has {len(losses)} of {steps} points, of which {len(judged_losses)} are "
            f"behind its first tenth and before its last 5; the rules need {FEWEST} there, so "
            "record more steps"
        )
    suggestions = {}
    for rule in (valley, slide, minimum, steep):
        suggestions[rule.__name__] = rule(judged_lrs, judged_losses)
    return suggestions


def _loss_was_not_finite(finite_count: int, steps: int) -> str:
    return (
        f"the loss was no longer finite after {finite_count} of {steps} steps; "
        "start lr_find lower or give it more steps"
    )


def _judged_part(steps: int) -> slice:
    """The part of a curve of `steps` planned steps that the rules look at."""
    return slice(steps // 10, -5)


def valley(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The rate half-way along the longest falling stretch: a third in, and half a third more."""
    # for each point, the length of the longest falling subsequence that ends there
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths_before_a_fall = lengths[:i][losses[:i] > losses[i]]
        if len(lengths_before_a_fall):
            lengths[i] = 1 + lengths_before_a_fall.max()
    end = int(lengths.argmax())
    longest = int(lengths[end])
    third = longest / 3
    index = end - longest + int(third) + int(third / 2)
    # the index is negative where the curve falls nowhere; it must not wrap around to the end
    return float(lrs[max(index, 0)])


def slide(
    lrs: np.ndarray, losses: np.ndarray, *, width: int = 15, threshold: float = 0.005
) -> float:
    """The lowest rate of the steep end of the curve.

    From the last point backwards, an interval of `width` points is moved for as long as the slopes
    at its ends differ by more than `threshold`; the result is the rate at its left end.
    """
    slopes = np.gradient(losses)
    left = len(losses) - 1 - width
    if left < 0:
        return float(lrs[0])
    index = left
    while left >= 0 and abs(slopes[left + width] - slopes[left]) > threshold:
        index = left
        left -= 1
    return float(lrs[index])


def minimum(lrs: np.ndarray, losses: np.ndarray) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(lrs[losses.argmin()]) / 10


def steep(lrs: np.ndarray, losses: np.ndarray) -> float:
    """The rate at which the loss falls fastest per unit of log rate."""
    slopes = np.diff(losses) / np.diff(np.log(lrs))
    return float(lrs[slopes.argmin()])
