"""Pace: how long it still takes, from how long it took."""

import time
from dataclasses import dataclass, field

_REMEMBERED = 4
"""Steps for which the pace before an epoch counts in it, so that its first step decides nothing."""


@dataclass(slots=True)
class Pace:
    """Seconds that are left, of an epoch and of the epochs after it. Times are of `now()`.

    Steps and what an epoch needs besides them (validation) are measured apart, and every phase
    anew: with frozen layers a step is quicker.
    """

    _step: float | None = field(default=None, init=False)  # seconds
    _besides: float = field(default=0.0, init=False)
    _begun: float = field(default=0.0, init=False)
    _first: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _at: float = field(default=0.0, init=False)

    def forget(self) -> None:
        """A new phase, whose steps take their own time."""
        self._step, self._besides = None, 0.0

    def begin(self, first: int, at: float) -> None:
        """The steps of an epoch begin, those before `first` are done."""
        self._begun = self._at = at
        self._first = self._done = first

    def step(self, done: int, at: float) -> None:
        """So many steps of the epoch are done."""
        self._done, self._at = done, at

    def end(self, at: float) -> None:
        """The epoch is at its end, validation included."""
        self._step, self._besides = self._seconds_per_step(), at - self._at

    def epoch_left(self, steps: int) -> float | None:
        """Of the steps of this epoch; None while nothing is known."""
        seconds = self._seconds_per_step()
        return None if seconds is None else seconds * (steps - self._done)

    def run_left(self, steps: int, epochs: float) -> float | None:
        """Of this epoch and of `epochs` like it; None while nothing is known."""
        seconds = self._seconds_per_step()
        if seconds is None:
            return None
        steps_left = steps - self._done + epochs * steps
        return seconds * steps_left + self._besides * (epochs + 1)

    def _seconds_per_step(self) -> float | None:
        steps, seconds = self._done - self._first, self._at - self._begun
        if self._step is not None:
            steps, seconds = steps + _REMEMBERED, seconds + _REMEMBERED * self._step
        return seconds / steps if steps else None


def now() -> float:
    """Seconds on a clock that only goes forward."""
    return time.perf_counter()


def clock(seconds: float) -> str:
    """
    >>> clock(7.4), clock(75), clock(3661)
    ('0:07', '1:15', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
