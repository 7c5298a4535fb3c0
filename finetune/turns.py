"""Turns: a training step has the process to itself, predictions share it.

Some of what a step uses belongs to the whole process: the global random generators, from which
dropout draws; the weights that autocast keeps converted; the modules, into whose convolutions norms
are folded. A prediction in another thread at the same moment would change what the step computes.
So whoever uses them takes a turn, in the order in which the threads ask.
"""

import os
import threading
from collections import deque

import torch


class _Turns:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[object] = deque()  # in the order in which they came
        self.is_taken = False  # by one thread alone
        self.has_begun = False  # with the first turn
        self.sharing = 0  # threads
        self.of_thread = threading.local()

    def take(self, alone: bool) -> None:
        """Waits until it is this thread's turn."""
        with self.changed:
            self.has_begun = True
            if self.waiting or not self._is_free(alone):
                self._wait(alone)
            elif alone:
                self.is_taken = True
            else:
                self.sharing += 1

    def end(self, alone: bool) -> None:
        with self.changed:
            if alone:
                self.is_taken = False
            else:
                self.sharing -= 1
            self.changed.notify_all()

    def _wait(self, alone: bool) -> None:
        place = object()
        self.waiting.append(place)
        try:
            self.changed.wait_for(lambda: self.waiting[0] is place and self._is_free(alone))
            if alone:
                self.is_taken = True
            else:
                self.sharing += 1
        finally:
            # also after Ctrl-C, or all that came later would wait for ever
            self.waiting.remove(place)
            self.changed.notify_all()

    def _is_free(self, alone: bool) -> bool:
        return not self.is_taken and not (alone and self.sharing)


class _Turn:
    """One turn of a thread, as a block; a class, since each training step takes two.

    A turn inside of a turn is a part of it; whoever waited for himself would wait for ever.
    """

    __slots__ = ("_alone", "_is_part", "_turns")

    def __init__(self, turns: _Turns, *, alone: bool) -> None:
        self._turns = turns
        self._alone = alone
        self._is_part = False

    def __enter__(self) -> None:
        self._is_part = getattr(self._turns.of_thread, "has_turn", False)
        if not self._is_part:
            self._turns.take(self._alone)
            self._turns.of_thread.has_turn = True

    def __exit__(self, *error: object) -> None:
        if not self._is_part:
            self._turns.of_thread.has_turn = False
            self._turns.end(self._alone)


_turns = _Turns()


def _begin_forked_process() -> None:
    """A fork has one thread: those that had turns never end them, nor do torch's own ever answer.

    So torch computes in the present thread, as in the workers of its DataLoader. Where nothing has
    taken a turn before, torch's threads are not ours to change.
    """
    global _turns
    has_computed = _turns.has_begun
    _turns = _Turns()
    if has_computed:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked_process)


def alone() -> _Turn:
    """A block for what changes weights, modules, or the global generators; nobody else's turn."""
    return _Turn(_turns, alone=True)


def shared() -> _Turn:
    """A block for what only reads them, such as a forward pass in evaluation; see `alone`."""
    return _Turn(_turns, alone=False)
