"""Plans and histories as the plain tables that figures take."""

import math
from collections.abc import Mapping, Sequence

from finetune.interpret.timeline import Position, Span, find_spans
from finetune.training.events import EpochEnd, StepEnd
from finetune.training.phase import Plan

MOST_STEPS = 1000
"""Of a phase that are in the table of a plan; a figure is not as wide as that."""

_Rows = list[tuple[float, ...]]


def plan_table(plan: Plan, steps_per_epoch: int) -> tuple[list[Span], _Rows, _Rows]:
    """Spans, learning rates [steps][groups] and momenta, empty where a phase has none."""
    positions: list[Position] = []
    rates: _Rows = []
    momenta: _Rows = []
    for phase in plan:
        count = phase.epochs * steps_per_epoch
        shown = {*range(0, count, math.ceil(count / MOST_STEPS)), count - 1}
        for epoch, step in (divmod(i, steps_per_epoch) for i in sorted(shown)):
            values = phase.at(epoch, step, steps_per_epoch)
            positions.append((phase.name, phase.frozen, epoch, step))
            rates.append(values["lr"])
            momenta += [values["momentum"]] if "momentum" in values else []
    complete = len(momenta) == len(rates)
    return find_spans(positions, steps_per_epoch), rates, momenta if complete else []


def step_spans(rows: Sequence[StepEnd], steps_per_epoch: int) -> list[Span]:
    """The phases of all fits. Raises ValueError before the first one."""
    if not rows:
        raise ValueError("there is nothing to plot before the first fit")
    positions = [(row.phase, row.frozen, row.epoch, row.step) for row in rows]
    return find_spans(positions, steps_per_epoch)


def valid_points(
    spans: Sequence[Span], steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]
) -> list[tuple[float, Mapping[str, float]]]:
    """The end of each epoch on the axis of epochs -> its results of validation.

    An epoch that was interrupted has none; which ones have is seen by their mean loss.
    """
    points: list[tuple[float, Mapping[str, float]]] = []
    left = list(reversed(epochs))
    for span in spans:
        inside = steps[span.first : span.last]
        for epoch in range(inside[0].epoch, inside[-1].epoch + 1):
            losses = [row.loss for row in inside if row.epoch == epoch]
            if left and losses and _is_of(left[-1], span.name, epoch, losses):
                end = span.start + epoch - inside[0].epoch + 1
                points.append((end, left.pop().valid))
    return [(x, row) for x, row in points if row]


def _is_of(row: EpochEnd, phase: str, epoch: int, losses: Sequence[float]) -> bool:
    mean = sum(losses) / len(losses)
    same = math.isclose(row.train_loss, mean, rel_tol=1e-6, abs_tol=1e-12)
    return same and (row.phase, row.epoch) == (phase, epoch)
