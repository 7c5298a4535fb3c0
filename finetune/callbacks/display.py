"""Where progress is shown: the interface of a display, and the one for terminals and pipes."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm.std import tqdm

from finetune.callbacks import epoch_table
from finetune.training.events import EpochEnd

_LONGEST_SILENCE = 60.0
"""Seconds without a line, after which a display without bars writes how far the epoch is."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a bar shows. fraction: how much is done, in [0, 1]. text: what stands behind it."""

    name: str
    fraction: float
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.fraction:4.0%}, {self.text}"


class Display(Protocol):
    """Shows lines and rows that stay, and below them bars that change.

    interval: the seconds that the caller lets pass between two calls of `bars`.
    """

    interval: float

    def line(self, text: str) -> None:
        """Adds a text that stays."""

    def row(self, row: EpochEnd) -> None:
        """Adds a row to the table of epochs, which stays."""

    def bars(self, bars: Sequence[Bar]) -> None:
        """Replaces the bars that were shown before."""

    def end(self) -> None:
        """Removes the bars."""


class TextDisplay:
    """Writes lines to standard output, on a terminal with bars below them.

    Without bars, it writes a line now and then during a long epoch, so that a log shows life.
    phases: the names of those that will have rows.
    """

    def __init__(self, *, bars: bool, phases: Sequence[str] = ()) -> None:
        self.interval = 0.1 if bars else 1.0
        self._shows_bars = bars
        self._last_line_at = time.perf_counter()
        self._phase_width = epoch_table.phase_width(phases)
        self._columns: list[str] = []
        self._bars: list[Any] = []

    def line(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)  # above all bars, those of other fits included
        sys.stdout.flush()
        self._last_line_at = time.perf_counter()

    def row(self, row: EpochEnd) -> None:
        if not self._columns:
            self._columns = list(epoch_table.results(row))
            self.line(epoch_table.text_head(self._columns, self._phase_width))
        self.line(epoch_table.text_row(row, self._columns, self._phase_width))
        note = epoch_table.note_below(row)
        if note:
            self.line(note)

    def bars(self, bars: Sequence[Bar]) -> None:
        if self._shows_bars:
            self._draw(bars)
        elif time.perf_counter() >= self._last_line_at + _LONGEST_SILENCE:
            self.line(str(bars[0]))

    def _draw(self, bars: Sequence[Bar]) -> None:
        name_width = max(len(bar.name) for bar in bars)
        for index, bar in enumerate(bars):
            name = bar.name.ljust(name_width)
            if index == len(self._bars):
                self._bars.append(_open_bar(name, bar))
                continue
            drawn = self._bars[index]
            drawn.n = bar.fraction
            drawn.desc = name
            drawn.unit = bar.text
            drawn.refresh()

    def end(self) -> None:
        while self._bars:  # the lowest first, so that the cursor ends where the upper one was
            self._bars.pop().close()


def _open_bar(name: str, bar: Bar) -> Any:
    """Draws a bar, which is drawn again at every `refresh()`."""
    return tqdm(
        total=1.0,
        initial=bar.fraction,
        desc=name,
        # the only field that tqdm prints as it is: it puts a comma before a postfix
        unit=bar.text,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {unit}",
        file=sys.stdout,
        leave=False,
        dynamic_ncols=True,
    )
