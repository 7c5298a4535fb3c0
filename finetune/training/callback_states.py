"""The states of callbacks: from a run to its file, and from a file to the next fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.training.checkpoint import CheckpointError
from finetune.training.events import Callback, named


class CallbackStates:
    """The callbacks of every fit and of the present one, and states that wait for theirs.

    lasting: the callbacks of every fit, the history first, so that a checkpoint has the latest row.
    Those of one fit are gone with it; a `resume` is given new ones, which continue with the states
    of those before them.
    """

    def __init__(self, lasting: Sequence[Callback]) -> None:
        self._lasting = list(lasting)
        self._active = self._lasting
        self._waiting: dict[str, dict[str, Any]] = {}

    def with_lasting(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """All callbacks of a fit that is given these."""
        return [*self._lasting, *callbacks]

    def forget_waiting(self) -> None:
        """Drops the states of a run that does not go on."""
        self._waiting = {}

    def begin_fit(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Hands the waiting states to the callbacks of a fit; returns all of its callbacks."""
        self._active = self.with_lasting(callbacks)
        for name, callback in named(self._active):
            if name in self._waiting:
                callback.load_state_dict(self._waiting[name])
        self._waiting = {}
        return self._active

    def end_fit(self) -> None:
        """Takes the states of the callbacks of this fit alone, for those of a `resume`.

        The callbacks of every fit are still there, and copying a long history would take time.
        """
        lasting = {id(callback) for callback in self._lasting}
        self._waiting = {}
        for name, callback in named(self._active):
            if id(callback) not in lasting:
                self._waiting[name] = callback.state_dict()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The states of the callbacks that are there, and those that wait, by name."""
        states = dict(self._waiting)
        for name, callback in named(self._active):
            states[name] = callback.state_dict()
        return states

    def load_state_dict(self, states: dict[str, dict[str, Any]], path: Path) -> None:
        """Loads those of the callbacks of every fit; the others wait for the fit to come.

        path: of the file that they are of, for errors. Only a callback itself knows what it can
        take, so that after an error all get their states back. Raises CheckpointError with the
        callback's name.
        """
        waiting = dict(states)
        states_before: list[tuple[Callback, dict[str, Any]]] = []
        for name, callback in named(self._lasting):
            if name not in waiting:
                continue
            states_before.append((callback, callback.state_dict()))
            try:
                callback.load_state_dict(waiting.pop(name))
            except Exception as error:  # of a callback that somebody else wrote
                for changed, state in states_before:
                    changed.load_state_dict(state)
                raise CheckpointError(
                    f"{str(path)!r} has an entry 'callbacks.{name}' that it can't take: {error!r}"
                ) from error
        self._active = self._lasting
        self._waiting = waiting
