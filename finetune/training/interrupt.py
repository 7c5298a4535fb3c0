"""Ctrl-C and SIGTERM wait until the running step is complete, so that nothing is half done."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Which signal has arrived, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self) -> BaseException:
        """What the process would have raised at once: KeyboardInterrupt, or SystemExit(143)."""
        return (
            SystemExit(128 + signal.SIGTERM)
            if self.signal == signal.SIGTERM
            else KeyboardInterrupt()
        )


@contextmanager
def deferred_signals() -> Iterator[Interruption]:
    """Records SIGINT and SIGTERM instead of raising; a second one raises at once.

    Does nothing outside the main thread. A handler that the program itself has put in place stays,
    and an ignored signal stays ignored.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def record(number: int, frame: FrameType | None) -> None:
        if interruption:
            raise interruption.error()
        interruption.signal = number
        # from here to the end of a terminal's screen there are bars, which will be drawn anew
        start = "\r\x1b[J" if sys.stderr.isatty() else "\n"
        told = f"{start}stopping after this step; once more to stop at once"
        print(told, file=sys.stderr, flush=True)

    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [number for number, handler in defaults.items() if signal.getsignal(number) == handler]
    previous = {number: signal.signal(number, record) for number in ours}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
