"""Pace: the remaining time, on a clock that the test sets."""

import time

import pytest

from finetune.callbacks.pace import Pace


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still unless its one number is changed."""
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def test_before_any_progress_nothing_is_known(seconds):
    pace = Pace()
    seconds[0] += 5
    assert pace.time_left(0, 10) == ""


def test_the_rest_takes_as_long_as_what_is_done(seconds):
    pace = Pace()
    seconds[0] += 8
    assert pace.time_left(4, 10) == "00:12"
    assert pace.time_left(4, 10_000) == "5:33:12"


def test_at_the_end_no_time_is_left(seconds):
    pace = Pace()
    seconds[0] += 8
    assert pace.time_left(10, 10) == "00:00"


def test_what_was_done_before_a_resume_took_no_time(seconds):
    pace = Pace(6)
    assert pace.time_left(6, 10) == ""
    seconds[0] += 4
    assert pace.time_left(8, 10) == "00:04"


def test_time_can_be_left_out(seconds):
    pace = Pace()
    seconds[0] += 30
    pace.leave_out(28)
    assert pace.time_left(1, 11) == "00:20"
