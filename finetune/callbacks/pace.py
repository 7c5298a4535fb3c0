"""Pace: the time that is left, at the mean pace so far."""

import time

from tqdm.std import tqdm


class Pace:
    """Measures how fast something is counted up: the epochs of a run, the images of a data set.

    first: the count at which the clock starts, which it does at once. What was done before, by a
    run that is resumed for example, took no time.
    """

    def __init__(self, first: float = 0.0) -> None:
        self.first = first
        self.started_at = time.perf_counter()

    def time_left(self, done: float, total: float) -> str:
        """The time from `done` to `total`, such as "01:30"; empty while there is no progress."""
        if done <= self.first:
            return ""
        seconds = time.perf_counter() - self.started_at
        seconds_left = seconds / (done - self.first) * (total - done)
        text: str = tqdm.format_interval(round(seconds_left))
        return text

    def leave_out(self, seconds: float) -> None:
        """Counts time that passed as no part of the work, because it does not come again."""
        self.started_at += seconds
