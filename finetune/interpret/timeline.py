"""The axis of epochs: where each step lies, over all phases and fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Position: TypeAlias = tuple[str, int, int, int]
"""Of a step: its phase, how many groups are frozen, epoch in the phase, step in the epoch."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive steps of one phase.

    name: of the phase. frozen: number of frozen groups. first, last: the steps are numbered from
    `first` up to, but without, `last`. epochs: of each step, fractional, counted over all spans.
    start, end: whole epochs between which the span lies.
    """

    name: str
    frozen: int
    first: int
    last: int
    epochs: tuple[float, ...]
    start: int
    end: int


def find_spans(positions: Sequence[Position], steps_per_epoch: int) -> list[Span]:
    """Finds a span for every phase of every fit, in order; the last epoch of each counts as whole.

    positions: of all steps, or of some in every epoch.

    >>> steps = [("frozen", 1, 0, 0), ("frozen", 1, 0, 1), ("all", 0, 0, 0), ("all", 0, 1, 1)]
    >>> [(span.name, span.start, span.end, span.epochs) for span in find_spans(steps, 2)]
    [('frozen', 0, 1, (0.0, 0.5)), ('all', 1, 3, (1.0, 2.5))]
    """
    spans: list[Span] = []
    first = 0
    start = 0
    while first < len(positions):
        last = _end_of_span(positions, first)
        name, frozen, first_epoch, _ = positions[first]
        epochs = []
        for _, _, epoch, step in positions[first:last]:
            epochs.append(start + epoch - first_epoch + step / steps_per_epoch)
        end = math.floor(epochs[-1]) + 1
        spans.append(Span(name, frozen, first, last, tuple(epochs), start, end))
        first = last
        start = end
    return spans


def _end_of_span(positions: Sequence[Position], first: int) -> int:
    """Number of the step after the span that begins with step `first`."""
    last = first + 1
    while last < len(positions) and _continues(positions[last - 1], positions[last]):
        last += 1
    return last


def _continues(before: Position, after: Position) -> bool:
    """Whether a step belongs to the span of the step before; in another fit epochs begin anew."""
    is_same_phase = before[:2] == after[:2]
    is_later = before[2:] < after[2:]
    return is_same_phase and is_later
