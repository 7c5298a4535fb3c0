"""Events: each reaches the method named after it, and the last one reaches everybody."""

import dataclasses

import pytest

from finetune import Callback, Save, Stop
from finetune.training.events import (
    EpochEnd,
    EpochStart,
    FitEnd,
    FitStart,
    GroupUpdates,
    PhaseStart,
    StepEnd,
    deliver,
    deliver_last,
)

EVENTS = {
    "on_fit_start": FitStart(("fit",), 1, 2, ("all",), 0),
    "on_phase_start": PhaseStart("fit", 1, 0),
    "on_epoch_start": EpochStart("fit", 0, 2, 0),
    "on_step_end": StepEnd("fit", 0, 0, 0.5, (1e-3,), ()),
    "on_group_updates": GroupUpdates("fit", 0, 0, (1.0,), (1e-3,)),
    "on_epoch_end": EpochEnd("fit", 0, 0.5),
    "on_fit_end": FitEnd("finished"),
}


@pytest.mark.parametrize("method", EVENTS)
def test_an_event_reaches_the_method_named_after_it(method: str):
    callback = type("Answering", (Callback,), {method: lambda self, event: (method, event)})()
    assert deliver(callback, EVENTS[method]) == (method, EVENTS[method])


@pytest.mark.parametrize("method", EVENTS)
def test_the_base_answers_nothing(method: str):
    assert deliver(Callback(), EVENTS[method]) is None


@pytest.mark.parametrize("record", [*EVENTS.values(), Stop("why"), Save("where")])
def test_events_and_answers_are_read_only(record: object):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(record, name, None)


def test_the_base_has_no_state():
    assert Callback().state_dict() == {}


class Ending(Callback):
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.reason = error, ""

    def on_fit_end(self, event: FitEnd) -> None:
        self.reason = event.reason
        if self.error:
            raise self.error


def test_the_last_event_reaches_all_and_the_first_error_is_returned():
    first, second = ValueError("first"), KeyError("second")
    callbacks = [Ending(), Ending(first), Ending(second), Ending()]
    assert deliver_last(callbacks, FitEnd("finished")) is first
    assert [callback.reason for callback in callbacks] == ["finished"] * 4


def test_without_an_error_the_last_event_returns_nothing():
    assert deliver_last([Ending()], FitEnd("finished")) is None
