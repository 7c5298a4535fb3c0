"""Pace: the remaining time, from times that are given."""

import pytest

from finetune.callbacks.pace import Pace


def test_before_the_first_step_nothing_is_known():
    pace = Pace()
    pace.begin(0, 100.0)
    assert pace.epoch_left(10) is None
    assert pace.run_left(10, 2) is None


def test_an_epoch_takes_as_long_as_its_steps_did():
    pace = Pace()
    pace.begin(0, 100.0)
    pace.step(4, 108.0)
    assert pace.epoch_left(10) == pytest.approx(6 * 2.0)
    assert pace.run_left(10, 2) == pytest.approx(26 * 2.0)


def test_validation_counts_for_every_epoch_that_is_left():
    pace = Pace()
    pace.begin(0, 100.0)
    pace.step(10, 110.0)
    pace.end(113.0)
    pace.begin(0, 113.0)
    assert pace.epoch_left(10) == pytest.approx(10.0)
    assert pace.run_left(10, 1) == pytest.approx(2 * (10.0 + 3.0))


def test_the_first_step_of_an_epoch_is_seen_beside_those_before():
    pace = Pace()
    pace.begin(0, 0.0)
    pace.step(10, 10.0)
    pace.end(10.0)
    pace.begin(0, 10.0)
    pace.step(1, 16.0)  # a slow one: (6 + 4 * 1) / (1 + 4)
    assert pace.epoch_left(10) == pytest.approx(9 * 2.0)


def test_steps_of_before_a_resume_took_no_time():
    pace = Pace()
    pace.begin(6, 0.0)
    pace.step(8, 4.0)
    assert pace.epoch_left(10) == pytest.approx(2 * 2.0)


def test_a_new_phase_has_its_own_pace():
    pace = Pace()
    pace.begin(0, 0.0)
    pace.step(10, 1.0)
    pace.end(2.0)
    pace.forget()
    pace.begin(0, 2.0)
    assert pace.run_left(10, 0) is None
    pace.step(1, 5.0)
    assert pace.run_left(10, 0) == pytest.approx(9 * 3.0)
