"""Turns: a training step has the process to itself, predictions share it.

Some of what a step uses belongs to the whole process: the global random generators, from which
dropout draws; the weights that autocast keeps converted; the modules, into whose convolutions norms
are folded. A prediction in another thread at the same moment would change what the step computes.
So whoever uses them takes a turn, in the order in which the threads ask.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Turns:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[object] = deque()  # in the order in which they came
        self.is_taken = False  # by one thread alone
        self.has_begun = False  # with the first turn
        self.sharing = 0  # threads
        self.of_thread = threading.local()

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        # a turn inside of a turn is a part of it; whoever waited for himself would wait for ever
        if getattr(self.of_thread, "has_turn", False):
            yield
            return
        self._wait(alone)
        self.of_thread.has_turn = True
        try:
            yield
        finally:
            self.of_thread.has_turn = False
            with self.changed:
                if alone:
                    self.is_taken = False
                else:
                    self.sharing -= 1
                self.changed.notify_all()

    def _wait(self, alone: bool) -> None:
        place = object()
        with self.changed:
            self.has_begun = True
            self.waiting.append(place)
            try:
                self.changed.wait_for(lambda: self._is_due(place, alone))
                if alone:
                    self.is_taken = True
                else:
                    self.sharing += 1
            finally:
                # also after Ctrl-C, or all that came later would wait for ever
                self.waiting.remove(place)
                self.changed.notify_all()

    def _is_due(self, place: object, alone: bool) -> bool:
        if self.waiting[0] is not place or self.is_taken:
            return False
        return not (alone and self.sharing)


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


@contextmanager
def alone() -> Iterator[None]:
    """For what changes weights, modules, or the global generators; a turn of nobody else."""
    with _turns.turn(alone=True):
        yield


@contextmanager
def shared() -> Iterator[None]:
    """For what only reads them, such as a forward pass in evaluation; in turn with `alone`."""
    with _turns.turn(alone=False):
        yield
