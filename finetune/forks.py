"""ForkSafeLock: a lock between threads that a forked process finds free."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_all_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()


class ForkSafeLock:
    """A lock between threads; a thread may take it again inside of its own block.

    A fork has the forking thread alone: a lock that another thread held at that moment would never
    be free in it. What such a lock guards must be right, or be done again, wherever it was left.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all_locks.add(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock inside of the block."""
        # that of this moment: the block may go on in a fork, where there is another one
        with self._lock:
            yield

    def free(self) -> None:
        """Forgets who holds it, in a process that has just been forked."""
        self._lock = threading.RLock()


def _begin_forked_process() -> None:
    for lock in _all_locks:
        lock.free()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked_process)
