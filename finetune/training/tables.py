"""Plans and histories as plain tables, from which the figures are drawn."""

import math
from collections.abc import Mapping, Sequence

from finetune.interpret.timeline import Position, Span, find_spans
from finetune.training.events import EpochEnd, StepEnd
from finetune.training.phase import Plan

MOST_STEPS = 1000
"""How many steps of a phase the table of a plan has at most; no figure is that many pixels wide."""

_Rows = list[tuple[float, ...]]


def plan_table(plan: Plan, steps_per_epoch: int) -> tuple[list[Span], _Rows, _Rows]:
    """The spans of a plan's phases, its learning rates [steps][groups] and its momenta.

    Of a long phase the rows are of evenly spaced steps, the last one among them. The momenta are
    empty if one of the phases has none.
    """
    positions: list[Position] = []
    rates: _Rows = []
    momenta: _Rows = []
    for phase in plan:
        for number in _steps_in_table(phase.epochs * steps_per_epoch):
            epoch, step = divmod(number, steps_per_epoch)
            values = phase.at(epoch, step, steps_per_epoch)
            positions.append((phase.name, phase.frozen, epoch, step))
            rates.append(values["lr"])
            if "momentum" in values:
                momenta.append(values["momentum"])
    if len(momenta) < len(rates):
        momenta = []
    return find_spans(positions, steps_per_epoch), rates, momenta


def _steps_in_table(count: int) -> list[int]:
    """The numbers of a phase's steps that a table shows, of `count` in all."""
    stride = math.ceil(count / MOST_STEPS)
    return sorted({*range(0, count, stride), count - 1})


def step_spans(rows: Sequence[StepEnd], steps_per_epoch: int) -> list[Span]:
    """The spans of the phases of all fits. Raises ValueError before the first fit."""
    if not rows:
        raise ValueError("there is nothing to plot before the first fit")
    positions = [(row.phase, row.frozen, row.epoch, row.step) for row in rows]
    return find_spans(positions, steps_per_epoch)


def valid_points(
    spans: Sequence[Span], steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]
) -> list[tuple[float, Mapping[str, float]]]:
    """Pairs of an epoch's end on the axis of epochs and its results of validation.

    steps, epochs: the rows of the history. An epoch that was interrupted has steps but no row of
    its own, so that rows are matched to epochs by phase, number and mean loss.
    """
    points: list[tuple[float, Mapping[str, float]]] = []
    next_row = 0
    for span in spans:
        span_steps = steps[span.first : span.last]
        first_epoch, last_epoch = span_steps[0].epoch, span_steps[-1].epoch
        for epoch in range(first_epoch, last_epoch + 1):
            if next_row == len(epochs):
                return points
            row = epochs[next_row]
            losses = [step.loss for step in span_steps if step.epoch == epoch]
            if not losses or not _is_end_of(row, span.name, epoch, losses):
                continue
            next_row += 1
            if row.valid:
                end = span.start + epoch - first_epoch + 1
                points.append((end, row.valid))
    return points


def _is_end_of(row: EpochEnd, phase: str, epoch: int, losses: Sequence[float]) -> bool:
    if (row.phase, row.epoch) != (phase, epoch):
        return False
    finite = [loss for loss in losses if math.isfinite(loss)]  # a step may have none
    if not finite:
        return not math.isfinite(row.train_loss)
    # the row's mean was made of the same numbers in the same order
    return math.isclose(row.train_loss, sum(finite) / len(finite), rel_tol=1e-12)
