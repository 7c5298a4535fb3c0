"""What all processes do together: none begins it alone, and one that fails in it ends the others.

They tell each other through the store by which torch joined them, whose answers do not depend on
what any of them computes.
"""

import atexit
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from finetune import launch

_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5

GRACE_SECONDS = 5.0
"""For which a process may go on after another has failed, to end by an error of its own."""

NESTED_SECONDS = 60.0
"""For which one process waits for the others inside of what they do together, as in a callback."""


STORE_SECONDS = 2.0
"""For which the store is left to the others, where the first process has it, and has ended."""


_NOT_CALLED = "process 0, which does {name} for all, has ended without it"


class ProcessError(RuntimeError):
    """Another process has failed, has ended, or does something else."""


@dataclass(slots=True)
class _Work:
    """What the processes do together. number: counted alike in all of them."""

    name: str
    number: int
    is_over: threading.Event = field(default_factory=threading.Event)


class _Company:
    """The processes of a group, as this one knows them."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.store = _get_default_store()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.count = 0
        self.present: _Work | None = None
        self.calls: Counter[str] = Counter()  # of what the first process does, by its name
        atexit.register(self._say_end)

    def meet(self, name: str) -> _Work:
        """Waits until all processes have come to this work."""
        self.count += 1
        work = _Work(name, self.count)
        try:
            self.store.set(self._key(work.number, self.rank), name)
            for other in range(self.size):
                self._await(work, other)
        except dist.DistError as error:
            raise ProcessError(
                f"process {self.rank} waits in {name} for the others, and the store is gone with "
                "the process that has it; all processes must call it"
            ) from error
        return work

    def _await(self, work: _Work, other: int) -> None:
        """Waits until another process has come to this work."""
        started_at = time.monotonic()
        is_nested = self.present is not None
        while not self._has_come(work, other):
            if is_nested and time.monotonic() > started_at + NESTED_SECONDS:
                raise ProcessError(
                    f"process {self.rank} waits in {work.name}, to which process {other} has not "
                    f"come for {NESTED_SECONDS:.0f} s; a callback must call it in all processes"
                )
            time.sleep(_POLL_SECONDS)

    def _has_come(self, work: _Work, other: int) -> bool:
        """Raises ProcessError where another process does something else, or has ended."""
        key, key_of_end = self._key(work.number, other), self._key("end", other)
        if self.store.check([key]):
            name_of_other = self.store.get(key).decode()
            if name_of_other != work.name:
                raise ProcessError(
                    f"process {self.rank} has begun {work.name}, and process {other} "
                    f"{name_of_other}; all processes must call the same"
                )
            return True
        if self.store.check([key_of_end]):
            how = self.store.get(key_of_end).decode()
            raise ProcessError(
                f"process {self.rank} waits in {work.name} for process {other}, which has ended"
                f"{how}; all processes must call it"
            )
        return False

    def by_first(self, name: str, work: Callable[[], None]) -> None:
        """See `by_first` below."""
        self.calls[name] += 1
        key = self._key(f"{name} {self.calls[name]}", "done")
        if self.rank == 0:
            try:
                work()
            except BaseException as error:
                self.store.set(key, _in_words(error))
                raise
            self.store.set(key, "")
            return
        try:
            while not self.store.check([key]):
                has_ended = self.store.check([self._key("end", 0)])
                # it may have done it just before its end
                if has_ended and not self.store.check([key]):
                    raise ProcessError(_NOT_CALLED.format(name=name))
                time.sleep(_POLL_SECONDS)
            failure = self.store.get(key).decode()
        except dist.DistError as error:
            raise ProcessError(_NOT_CALLED.format(name=name)) from error
        if failure:
            raise ProcessError(f"process 0 failed in {name}: {failure}")

    @staticmethod
    def _key(work: int | str, name: int | str) -> str:
        # a store of torchrun's own may be that of an earlier attempt
        return f"finetune/{launch.attempt()}/{work}/{name}"

    def _say_end(self) -> None:
        """Tells the others, who may be waiting, that this process comes to nothing any more."""
        error = getattr(sys, "last_value", None)
        how = f" by {_in_words(error)}" if error is not None else ""
        with suppress(Exception):  # the store may be gone
            self.store.set(self._key("end", self.rank), how)
            if self.rank == 0 and not launch.keeps_store():
                self._let_others_ask()

    def _let_others_ask(self) -> None:
        """Waits a moment for the others to end, as the store ends with this process."""
        latest = time.monotonic() + STORE_SECONDS
        ends = [self._key("end", other) for other in range(1, self.size)]
        while not self.store.check(ends) and time.monotonic() < latest:
            time.sleep(_POLL_SECONDS)

    def say_failure(self, work: _Work, error: BaseException) -> None:
        """Tells the others that this process has left a work that they are in."""
        text = f"process {self.rank} failed in {work.name}: {_in_words(error)}"
        with suppress(Exception):
            key = self._key(work.number, "failure")
            if not self.store.check([key]):
                self.store.set(key, text)

    def failure(self, work: _Work) -> str:
        """What the first process that failed in a work has said; empty where none has."""
        key = self._key(work.number, "failure")
        with suppress(Exception):
            if self.store.check([key]):
                return self.store.get(key).decode()
        return ""

    def watch(self, work: _Work) -> None:
        """Ends this process if another one fails while this one waits for it, in any library."""
        while not work.is_over.wait(_WATCH_SECONDS):
            failure = self.failure(work)
            if failure and not work.is_over.wait(GRACE_SECONDS):
                with suppress(Exception):
                    sys.stdout.flush()
                    print(f"process {self.rank} ends, since {failure}", file=sys.stderr, flush=True)
                # the main thread waits inside of torch, where no error can reach it
                os._exit(1)


_company: _Company | None = None


def introduce() -> None:
    """Makes this process known to the others: from now on they learn when it ends."""
    global _company
    if dist.get_world_size() > 1 and (_company is None or _company.group is not dist.group.WORLD):
        _company = _Company(dist.group.WORLD)


@contextmanager
def together(name: str) -> Iterator[None]:
    """Put it around what the processes do together, in which they wait for each other.

    It begins when all have come. name: of it, for errors. Raises ProcessError in a process to which
    another one will not come, since it has ended, or has begun something else; and in one that
    lost the connection to another one, with what that one said. A process that can't be told so,
    because it waits inside of torch, is ended seconds later, with a line on standard error.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    introduce()
    assert _company is not None
    company = _company
    work = company.meet(name)
    if company.present is not None:
        # a part of something else, which is watched
        yield
        return
    company.present = work
    threading.Thread(target=company.watch, args=(work,), daemon=True).start()
    try:
        yield
    except BaseException as error:
        leave(error)
        explained = _explained(company, work, error)
        if explained is None:
            raise
        company.say_failure(work, explained)
        raise explained from error
    finally:
        leave()
        company.present = None


def by_first(name: str, work: Callable[[], None]) -> None:
    """Does what the first process does for all, such as writing a file.

    It does so whether the others call this or not; those that do wait until it is done, and raise
    ProcessError if it fails, or ends without it. name: of it, the same in all processes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        work()
        return
    introduce()
    assert _company is not None
    _company.by_first(name, work)


def leave(error: BaseException | None = None) -> None:
    """Says that this process no longer waits for the others in what they do together.

    error: by which it leaves; the others learn of the first one of a process.
    """
    if _company is None or _company.present is None:
        return
    work = _company.present
    if not work.is_over.is_set() and error is not None and not _is_lost_connection(error):
        _company.say_failure(work, error)
    work.is_over.set()


def _explained(company: _Company, work: _Work, error: BaseException) -> ProcessError | None:
    """What stands behind a lost connection; None for an error of another kind."""
    if not _is_lost_connection(error):
        return None
    failure = company.failure(work)
    if failure:
        return ProcessError(failure)
    return ProcessError(
        f"process {company.rank} has lost another process in {work.name}, which ended without a "
        "word, as one does that is killed or runs out of memory; the launcher says which"
    )


def _is_lost_connection(error: BaseException) -> bool:
    """Whether it is torch's error in a process that waits for one that has gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _in_words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
