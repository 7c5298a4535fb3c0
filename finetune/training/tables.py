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

    A probe has no steps and is left out.
    Of a long phase the rows are of evenly spaced steps, the last one among them. The momenta are
    empty if one of the phases has none.
    """
    positions: list[Position] = []
    rates: _Rows = []
    momenta: _Rows = []
    for phase in plan:
        if phase.probe:  # which has no steps
            continue
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
    its own; rows of older versions, which do not say their epoch's number, are left out.
    """
    ends: dict[int | None, float] = {}
    for span in spans:
        first_epoch = steps[span.first].epoch
        for step in steps[span.first : span.last]:
            ends[step.epoch_number] = span.start + step.epoch - first_epoch + 1
    ends.pop(None, None)
    points: list[tuple[float, Mapping[str, float]]] = []
    for row in epochs:
        if row.valid and row.epoch_number in ends:
            points.append((ends[row.epoch_number], row.valid))
    return points
