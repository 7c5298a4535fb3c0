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
        """What the signal raises otherwise: SystemExit(143) for SIGTERM, or KeyboardInterrupt."""
        if self.signal == signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt()


@contextmanager
def deferred_signals() -> Iterator[Interruption]:
    """Records SIGINT and SIGTERM instead of raising; a second one raises at once.

    Outside the main thread, which alone may handle signals, it does nothing. A handler that the
    program itself has installed stays, and an ignored signal stays ignored.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def record(number: int, frame: FrameType | None) -> None:
        if interruption:
            raise interruption.error()
        interruption.signal = number
        new_line = "\n"
        if sys.stderr.isatty():
            # erases the bars from here to the end of the screen, which are drawn anew
            new_line = "\r\x1b[J"
        message = f"{new_line}stopping after this step; once more to stop at once"
        print(message, file=sys.stderr, flush=True)

    default_handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    previous = {}
    for number, handler in default_handlers.items():
        if signal.getsignal(number) == handler:
            previous[number] = signal.signal(number, record)
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
