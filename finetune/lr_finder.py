"""The learning-rate range test (Smith 2015), on copies: it leaves no trace in the learner."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from finetune import distributed
from finetune.data.loaders import Batches, take
from finetune.optim.schedules import Exponential
from finetune.randomness import isolated, key
from finetune.training.step import DivergenceError, Setup, TrainStep

SMOOTHING = 0.98
"""Weight of the past in the exponential mean of the losses."""


@dataclass(frozen=True, slots=True)
class LearningRateCurve:
    """What a range test saw: rates, smoothed losses, and what the four rules say of them.

    suggestion: the rate to pass to `fine_tune(base_lr=...)`, by the rule "valley".
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: Mapping[str, float]

    @property
    def suggestion(self) -> float:
        return self.suggestions["valley"]


def range_test(
    setup: Setup, *, start_lr: float, end_lr: float, steps: int, stop_factor: float
) -> LearningRateCurve:
    """Trains copies at `start_lr * (end_lr / start_lr) ** (i / steps)`, all groups alike.

    Ends early when the smoothed loss exceeds `stop_factor` times its best, or is no number.
    """
    if not 0 < start_lr < end_lr:
        raise ValueError(f"lr_find needs 0 < start_lr < end_lr, got {start_lr} and {end_lr}")
    if steps < 20:
        raise ValueError(f"lr_find needs at least 20 steps to judge a curve, got {steps}")
    copied = setup.copied(setup.runtime)
    groups = copied.optimizer.groups
    schedule = Exponential(start_lr, end_lr)
    lrs: list[float] = []
    losses: list[float] = []
    mean, best = 0.0, math.inf
    seed = key(setup.data.seed, "lr_find")
    with (
        isolated(),
        closing(_endless(setup, seed)) as batches,
        distributed.wrapped(groups.model) as net,
    ):
        step = TrainStep(net, copied)
        groups.set_training_modes()
        for i in range(steps):
            lr = schedule(i / steps)
            groups.set_values("lr", [lr] * len(groups))
            taken = take(batches, setup.settings.accumulate)
            try:
                loss = distributed.total(step(taken, 0, seed, i)).item() / distributed.world_size()
            except DivergenceError:
                break
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smoothed = mean / (1 - SMOOTHING ** (i + 1))
            lrs.append(lr)
            losses.append(smoothed)
            best = min(best, smoothed)
            if smoothed > stop_factor * best:
                break
    return LearningRateCurve(tuple(lrs), tuple(losses), suggest(lrs, losses, steps))


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
    x = np.asarray(lrs[steps // 10 : -5], dtype=np.float32)
    y = np.asarray(losses[steps // 10 : -5], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        x, y = x[: bad[0]], y[: bad[0]]
    if len(y) < 3:
        raise ValueError(
            f"the loss left the range of numbers after {len(losses)} of {steps} steps; "
            "start lr_find lower or give it more steps"
        )
    return {rule.__name__: float(rule(x, y)) for rule in (valley, slide, minimum, steep)}


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
