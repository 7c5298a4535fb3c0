"""The files that a run writes: its own while it goes on, and never those of another run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from finetune import distributed
from finetune.files.locks import held
from finetune.files.names import beside
from finetune.training import checkpoint as checkpoints
from finetune.training.events import Callback
from finetune.training.fingerprint import check_same_run
from finetune.training.run import Run


@contextmanager
def locked(checkpoint: Path | None, callbacks: Sequence[Callback]) -> Iterator[None]:
    """Holds the files that a run writes, one run at a time.

    Raises InUseError where another run holds one, and ValueError where two writers of this run
    have the same.
    """
    paths = [] if checkpoint is None else [checkpoint]
    for callback in callbacks:
        if callback.saves_to is not None:
            paths.append(callback.saves_to)
    # a folder may have several names; a link in the place of a file is replaced, not followed
    paths = [path.parent.resolve() / path.name for path in paths]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{str(path)!r} is to be written as two checkpoints; name another")
    with ExitStack() as locks:
        if distributed.rank() == 0:
            for path in paths:
                locks.enter_context(held(beside(path, "lock"), repr(str(path))))
        yield


def check_replaced(run: Run, callbacks: Sequence[Callback]) -> None:
    """Raises CheckpointError where a callback would replace the best epoch of another run."""
    plan_data = [phase.to_dict() for phase in run.plan]
    for callback in callbacks:
        path = callback.saves_to
        if path is None or callback.knows_its_file or not path.exists():
            continue
        stored_run = checkpoints.read(path)["run"] or {}
        check_same_run(path, stored_run, plan_data, run.fingerprint)
