"""Ctrl-C and SIGTERM wait while a file is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds back SIGINT and SIGTERM inside the block, and delivers them after it.

    An exception in the middle of a write would come out of C++ as an error about the position in
    the file. Outside of the main thread, which alone handles signals, it does nothing. A signal
    that is ignored stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    previous = {}
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        # None is a handler of another language, which Python could not put back
        if handler is not None and handler != signal.SIG_IGN:
            previous[number] = signal.signal(number, record)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for arrived_number in arrived:
            signal.raise_signal(arrived_number)
