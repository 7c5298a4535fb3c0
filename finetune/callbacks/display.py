"""Where progress is shown: a terminal, a pipe, or a notebook."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm.std import tqdm

from finetune.callbacks import epoch_table
from finetune.callbacks.pace import now
from finetune.training.events import EpochEnd

_SILENCE = 60.0
"""Seconds without a line, after which one says how far it is where no bars are shown."""


@dataclass(frozen=True, slots=True)
class Bar:
    """fraction: done, in [0, 1]. text: what else there is to say."""

    name: str
    fraction: float
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.fraction:4.0%}, {self.text}"


class Display(Protocol):
    """interval: seconds between two calls of `bars`, at least."""

    interval: float

    def line(self, text: str) -> None:
        """Text that stays."""

    def row(self, row: EpochEnd) -> None:
        """A row that stays."""

    def bars(self, bars: Sequence[Bar]) -> None:
        """Takes the place of the bars that were shown before."""

    def end(self) -> None:
        """No bars any more."""


class TextDisplay:
    """Lines on standard output, on a terminal with bars below them.

    Without bars a line now and then, where an epoch takes long, so that a log shows life.
    """

    def __init__(self, *, bars: bool) -> None:
        self.interval = 0.1 if bars else 1.0
        self._draws, self._told_at = bars, now()
        self._names: list[str] = []
        self._bars: list[Any] = []

    def line(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)  # above all bars, those of other fits included
        sys.stdout.flush()
        self._told_at = now()

    def row(self, row: EpochEnd) -> None:
        if not self._names:
            self._names = list(epoch_table.results(row))
            self.line(epoch_table.text_head(self._names))
        self.line(epoch_table.text_row(row, self._names))

    def bars(self, bars: Sequence[Bar]) -> None:
        if not self._draws:
            if now() >= self._told_at + _SILENCE:
                self.line(str(bars[0]))
            return
        wide = max(len(bar.name) for bar in bars)
        for i, bar in enumerate(bars):
            name = bar.name.ljust(wide)
            if i == len(self._bars):
                self._bars.append(_new_bar(name, bar))
                continue
            own = self._bars[i]
            own.n, own.desc, own.unit = bar.fraction, name, bar.text
            own.refresh()

    def end(self) -> None:
        while self._bars:  # the lowest first, so that the cursor ends where the upper one was
            self._bars.pop().close()


def _new_bar(name: str, bar: Bar) -> Any:
    """A line that is drawn now and at every refresh. Its `unit` is the text at the end."""
    return tqdm(
        total=1.0,
        initial=bar.fraction,
        desc=name,
        unit=bar.text,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {unit}",
        file=sys.stdout,
        leave=False,
        dynamic_ncols=True,
    )
