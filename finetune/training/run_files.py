"""The files that a run writes: its own while it goes on, and never those of another run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from finetune import distributed
from finetune.files.locks import held, is_unwritable
from finetune.files.names import beside
from finetune.training import checkpoint as checkpoints
from finetune.training.events import Callback
from finetune.training.fingerprint import check_same_run
from finetune.training.run import Run


@contextmanager
def locked(checkpoint: Path | None, callbacks: Sequence[Callback]) -> Iterator[None]:
    """Holds the files that a run writes, one run at a time.

    Raises InUseError where another run holds one, in all processes, and ValueError where two
    writers of this run have the same. A finished run in a folder that can't be written needs no
    lock.
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

        def hold() -> None:
            try:
                for path in paths:
                    locks.enter_context(held(beside(path, "lock"), repr(str(path))))
            except Exception as error:
                # what is finished is read, and needs no lock where nothing can be written
                if not (is_unwritable(error) and _has_ended(checkpoint)):
                    raise

        distributed.of_first(hold)
        yield


def _has_ended(checkpoint: Path | None) -> bool:
    """Whether there is nothing left to do for the run of a checkpoint."""
    if checkpoint is None or not checkpoint.exists():
        return False
    run = checkpoints.read(checkpoint)["run"]
    return isinstance(run, dict) and run.get("ended") is not None


def check_replaced(run: Run, callbacks: Sequence[Callback]) -> None:
    """Raises CheckpointError where a callback would replace the best epoch of another run.

    Of several processes the first one, which writes, looks.
    """
    distributed.of_first(partial(_check_replaced, run, callbacks))


def _check_replaced(run: Run, callbacks: Sequence[Callback]) -> None:
    plan_data = [phase.to_dict() for phase in run.plan]
    for callback in callbacks:
        path = callback.saves_to
        if path is None or callback.knows_its_file or not path.exists():
            continue
        stored_run = checkpoints.read(path)["run"] or {}
        check_same_run(path, stored_run, plan_data, run.fingerprint)
