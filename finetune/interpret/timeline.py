"""Where steps lie on the axis of epochs, over all phases and fits; plain numbers, no figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Position: TypeAlias = tuple[str, int, int, int]
"""Phase, how many groups are frozen, epoch of the phase, step of the epoch."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive steps of one phase: those numbered `first` up to, without, `last`.

    epochs: of each, counted over all spans, fractional. start, end: whole epochs.
    """

    name: str
    frozen: int
    first: int
    last: int
    epochs: tuple[float, ...]
    start: int
    end: int


def find_spans(positions: Sequence[Position], steps_per_epoch: int) -> list[Span]:
    """A span for every phase of every fit, in order. An epoch that was begun takes its whole place.

    positions: of all steps, or of some in every epoch.

    >>> steps = [("frozen", 1, 0, 0), ("frozen", 1, 0, 1), ("all", 0, 0, 0), ("all", 0, 1, 1)]
    >>> [(span.name, span.start, span.end, span.epochs) for span in find_spans(steps, 2)]
    [('frozen', 0, 1, (0.0, 0.5)), ('all', 1, 3, (1.0, 2.5))]
    """
    borders = [i for i in range(1, len(positions)) if not _goes_on(*positions[i - 1 : i + 1])]
    spans: list[Span] = []
    start = 0
    for first, last in zip([0, *borders], [*borders, len(positions)], strict=True):
        rows = positions[first:last]
        if not rows:
            break
        name, frozen, begun, _ = rows[0]
        epochs = tuple(start + epoch - begun + step / steps_per_epoch for *_, epoch, step in rows)
        end = math.floor(epochs[-1]) + 1
        spans.append(Span(name, frozen, first, last, epochs, start, end))
        start = end
    return spans


def _goes_on(before: Position, after: Position) -> bool:
    return before[:2] == after[:2] and before[2:] < after[2:]
