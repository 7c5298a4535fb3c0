"""A bar for work that is no fit, such as a range test."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune.callbacks.display import Bar
from finetune.callbacks.pace import Pace
from finetune.callbacks.progress import choose_display


@contextmanager
def work_bar(*, shown: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    """Gives a function `tell(work, done, total, unit)`, which shows how far a piece of work is.

    The bar goes when the work is over. Not shown, the function does nothing.
    """
    if not shown:
        yield lambda work, done, total, unit: None
        return
    bar = _WorkBar()
    try:
        yield bar.tell
    finally:
        bar.end()


class _WorkBar:
    """One bar, for one piece of work after another."""

    def __init__(self) -> None:
        self._display = choose_display()
        self._work = ""
        self._pace = Pace()
        self._next_at = 0.0

    def tell(self, work: str, done: int, total: int, unit: str) -> None:
        if work != self._work:
            self._work = work
            self._pace = Pace(done)
        if time.perf_counter() < self._next_at:
            return
        words = [f"{done}/{total} {unit}"]
        time_left = self._pace.time_left(done, total)
        if time_left:
            words.append(f"{time_left} left")
        self._display.bars([Bar(work, done / total, ", ".join(words))])
        # from the end of the drawing, so that a slow terminal does not slow the work down
        self._next_at = time.perf_counter() + self._display.interval

    def end(self) -> None:
        self._display.end()
