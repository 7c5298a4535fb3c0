"""Schedules are pure functions from progress in [0, 1] to a multiplier."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.optim import schedules
from finetune.optim.schedules import (
    Constant,
    Exponential,
    FlatCosine,
    OneCycle,
    Schedule,
    cosine,
    delayed,
    one_cycle,
    one_cycle_momentum,
)

fractions = st.floats(0, 1)
positive = st.floats(1e-6, 1e3)
one_cycles = st.builds(OneCycle, positive, positive, positive, fractions)
built_in = st.one_of(
    st.builds(Constant, positive),
    one_cycles,
    st.builds(FlatCosine, fractions, fractions),
    st.builds(Exponential, positive, positive),
)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(0.9), {0: 0.9, 0.5: 0.9, 1: 0.9}),
        (one_cycle(), {0: 0.04, 0.125: 0.52, 0.25: 1.0, 0.5: 0.7500025, 0.625: 0.500005, 1: 1e-5}),
        (one_cycle(div=5, div_final=100, pct_start=0.5), {0: 0.2, 0.5: 1.0, 0.75: 0.505, 1: 0.01}),
        (one_cycle(pct_start=0), {0: 1.0, 0.5: 0.500005, 1: 1e-5}),
        (one_cycle(pct_start=1), {0: 0.04, 0.5: 0.52, 1: 1.0}),
        (one_cycle_momentum(), {0: 0.95, 0.125: 0.9, 0.25: 0.85, 0.5: 0.875, 0.625: 0.9, 1: 0.95}),
        (FlatCosine(), {0: 1.0, 0.75: 1.0, 0.875: 0.500005, 1: 1e-5}),
        (FlatCosine(0.5, 0.1), {0.25: 1.0, 0.75: 0.55, 1: 0.1}),
        (FlatCosine(0, 0), {0: 1.0, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0.0}),
        (FlatCosine(1), {0: 1.0, 1: 1.0}),
        (Exponential(1e-4, 1), {0: 1e-4, 0.25: 1e-3, 0.5: 1e-2, 1: 1.0}),
    ],
    ids=repr,
)
def test_golden_values(schedule: Schedule, expected: dict[float, float]):
    assert {t: schedule(t) for t in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("t", "value"), [(0, 2.0), (1 / 3, 2.5), (0.5, 3.0), (1, 4.0)])
def test_cosine_is_half_a_period(t: float, value: float):
    assert cosine(2.0, 4.0, t) == pytest.approx(value, rel=1e-15)


@settings(deadline=None)
@given(built_in, fractions)
def test_every_value_is_finite_and_within_the_bounds(schedule: Schedule, t: float):
    ends = {
        Constant: lambda s: (s.value, s.value),
        OneCycle: lambda s: (s.start, s.peak, s.end),
        FlatCosine: lambda s: (1.0, s.end),
        Exponential: lambda s: (s.start, s.end),
    }[type(schedule)](schedule)
    slack = 1e-9 * max(ends)
    assert min(ends) - slack <= schedule(t) <= max(ends) + slack


@settings(deadline=None)
@given(built_in, st.floats(0.01, 0.99), fractions)
def test_small_steps_make_small_changes(schedule: Schedule, pct_start: float, t: float):
    if isinstance(schedule, OneCycle):
        schedule = OneCycle(schedule.start, schedule.peak, schedule.end, pct_start)
    elif isinstance(schedule, FlatCosine):
        schedule = FlatCosine(pct_start, schedule.end)
    step = 1e-7
    near = schedule(min(t, 1 - step) + step)
    # slopes are at most pi / 2 / 0.01, and ln(1e9) for the exponential, times the largest value
    assert abs(near - schedule(min(t, 1 - step))) <= 200 * step * 1e3


@settings(deadline=None)
@given(st.floats(1.01, 1e3), st.floats(1.01, 1e6), fractions, fractions)
def test_one_cycle_peaks_at_pct_start(div: float, div_final: float, pct_start: float, t: float):
    cycle = one_cycle(div=div, div_final=div_final, pct_start=pct_start)
    assert cycle(pct_start) == 1.0
    assert cycle(t) <= 1.0 + 1e-12


@settings(deadline=None)
@given(st.floats(0.01, 0.99))
def test_one_cycle_starts_and_ends_at_the_divided_peak(pct_start: float):
    cycle = one_cycle(div=10, div_final=1000, pct_start=pct_start)
    assert cycle(0) == pytest.approx(0.1)
    assert cycle(1) == pytest.approx(0.001)


@settings(deadline=None)
@given(st.floats(0.01, 0.99), fractions, fractions)
def test_one_cycle_rises_and_then_falls(pct_start: float, a: float, b: float):
    cycle = one_cycle(pct_start=pct_start)
    a, b = sorted((a, b))
    if b <= pct_start:
        assert cycle(a) <= cycle(b)
    if a >= pct_start:
        assert cycle(a) >= cycle(b)


@settings(deadline=None)
@given(fractions, fractions)
def test_momentum_is_lowest_where_the_rate_is_highest(pct_start: float, t: float):
    momentum = one_cycle_momentum(pct_start=pct_start)
    assert momentum(pct_start) == 0.85
    assert 0.85 - 1e-12 <= momentum(t) <= 0.95 + 1e-12


@settings(deadline=None)
@given(built_in)
def test_a_schedule_survives_the_way_through_plain_data(schedule: Schedule):
    assert schedules.from_dict(schedules.to_dict(schedule)) == schedule


@settings(deadline=None)
@given(built_in, fractions)
def test_a_schedule_answers_the_same_twice(schedule: Schedule, t: float):
    assert schedule(t) == schedule(t)


def test_reading_leaves_the_data_as_it_was():
    data = schedules.to_dict(FlatCosine())
    schedules.from_dict(data)
    assert data == {"name": "FlatCosine", "pct_start": 0.75, "end": 1e-5}


def my_schedule(progress: float) -> float:
    return 1 - progress


def test_of_your_own_function_the_name_is_kept():
    assert schedules.to_dict(my_schedule) == {"name": "my_schedule", "custom": True}


def test_your_own_function_can_not_be_read_back():
    with pytest.raises(ValueError, match="schedule 'my_schedule' is your own function"):
        schedules.from_dict(schedules.to_dict(my_schedule))


@pytest.mark.parametrize("pct_start", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("make", [lambda p: one_cycle(pct_start=p), FlatCosine])
def test_pct_start_is_a_fraction(make, pct_start: float):
    with pytest.raises(ValueError, match=f"pct_start must be .* and at most 1, got {pct_start}"):
        make(pct_start)


@pytest.mark.parametrize("name", ["div", "div_final"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_divisors_are_positive(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got {value}"):
        one_cycle(**{name: value})


# --- delayed


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_delayed_schedule_is_zero_and_then_the_whole_of_the_other(start: float, progress: float):
    late, cycle = delayed(start, one_cycle()), one_cycle()
    if progress < start:
        assert late(progress) == 0
    elif start < 1:
        assert late(progress) == cycle((progress - start) / (1 - start))


@pytest.mark.parametrize("start", [-0.1, 1.1])
def test_a_delay_is_a_fraction_of_the_phase(start: float):
    with pytest.raises(ValueError, match=f"start must be .* and at most 1, got {start}"):
        delayed(start, one_cycle())


def test_a_delayed_schedule_survives_json():
    late = delayed(0.5, delayed(0.25, FlatCosine()))
    assert schedules.from_dict(json.loads(json.dumps(schedules.to_dict(late)))) == late
