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

_SECONDS_WAITED = 1.0
"""After which whoever waits looks again: Ctrl-C may have come before he was told."""


class _Turns:
    """Who has a turn and who waits for one, by the numbers of their `_Turn` objects."""

    def __init__(self) -> None:
        # entered itself: in the `__enter__` of a Condition, Ctrl-C could leave it locked
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.waiting: deque[int] = deque()  # in the order in which they came
        self.alone: int | None = None
        self.sharing: set[int] = set()
        self.has_begun = False  # with the first turn
        self.of_thread = threading.local()

    def take(self, turn: int, alone: bool) -> None:
        """Waits until it is this thread's turn."""
        with self.lock:
            self.has_begun = True
            if self.waiting or not self._is_free(alone):
                self._wait(turn, alone)
            if alone:
                self.alone = turn
            else:
                self.sharing.add(turn)

    def _wait(self, turn: int, alone: bool) -> None:
        self.waiting.append(turn)
        while self.waiting[0] != turn or not self._is_free(alone):
            self.changed.wait(_SECONDS_WAITED)
        self.waiting.popleft()
        # several may share the turn that comes next
        self.changed.notify_all()

    def _is_free(self, alone: bool) -> bool:
        return self.alone is None and not (alone and self.sharing)

    def end(self, turn: int) -> None:
        """Gives up a turn, or the place of one that waits; does nothing where there is none."""
        # without the lock, for which it might have to wait: Ctrl-C could come meanwhile
        self.sharing.discard(turn)
        if self.alone == turn:
            self.alone = None
        if turn in self.waiting:
            self.waiting.remove(turn)
        # whoever waits is on the list before he looks whether it is his turn: he has seen this end,
        # or he is seen here
        if self.waiting:
            with self.lock:
                self.changed.notify_all()


class _Turn:
    """One turn of a thread, as a block; a class, since each training step takes two.

    A turn inside of a turn is a part of it; whoever waited for himself would wait for ever. Ctrl-C
    may come at any moment, also before the block begins: no turn is left behind that nobody ends.
    """

    __slots__ = ("_alone", "_is_part", "_may_have_turn", "_turns")

    def __init__(self, turns: _Turns, *, alone: bool) -> None:
        self._turns = turns
        self._alone = alone
        self._is_part = False
        self._may_have_turn = False

    def __enter__(self) -> None:
        self._is_part = getattr(self._turns.of_thread, "has_turn", False)
        if self._is_part:
            return
        self._may_have_turn = True
        try:
            self._turns.take(id(self), self._alone)
            self._turns.of_thread.has_turn = True
        except BaseException:
            self._end()
            raise

    def __exit__(self, *error: object) -> None:
        if not self._is_part:
            self._end()

    def _end(self) -> None:
        self._turns.of_thread.has_turn = False
        self._turns.end(id(self))
        self._may_have_turn = False

    def __del__(self) -> None:
        # Ctrl-C came at the very beginning of the end
        if self._may_have_turn:
            self._end()


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
