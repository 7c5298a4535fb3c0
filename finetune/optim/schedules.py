"""Schedules: pure functions from progress in [0, 1] to a multiplier of the peak value.

Each is a small frozen dataclass, so that a plan can be compared, printed and stored; any other
callable `float -> float` works as a schedule too.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from finetune import arguments

Schedule = Callable[[float], float]


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1).

    `start + (1 - cos(pi * progress)) / 2 * (end - start)` (Loshchilov and Hutter 2016).

    >>> round(cosine(0.0, 1.0, 0.5), 12)
    0.5
    """
    return start + (1 - math.cos(math.pi * progress)) / 2 * (end - start)


def _check_fraction(name: str, value: float) -> None:
    arguments.real_number(name, value, at_least=0, at_most=1)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value throughout."""

    value: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Cosine from `start` to `peak` at `pct_start`, then cosine to `end` (Smith 2018).

    >>> cycle = one_cycle(div=25.0, div_final=1e5, pct_start=0.25)
    >>> [round(cycle(t), 5) for t in (0, 0.25, 1)]
    [0.04, 1.0, 1e-05]
    """

    start: float
    peak: float
    end: float
    pct_start: float

    def __post_init__(self) -> None:
        _check_fraction("pct_start", self.pct_start)

    def __call__(self, progress: float) -> float:
        if progress < self.pct_start:
            return cosine(self.start, self.peak, progress / self.pct_start)
        if self.pct_start == 1:  # there is nothing behind the peak
            return self.peak
        return cosine(self.peak, self.end, (progress - self.pct_start) / (1 - self.pct_start))


@dataclass(frozen=True, slots=True)
class FlatCosine:
    """1 until `pct_start`, then cosine to `end`; `FlatCosine(0, 0)` is one cosine cycle of SGDR."""

    pct_start: float = 0.75
    end: float = 1e-5

    def __post_init__(self) -> None:
        _check_fraction("pct_start", self.pct_start)

    def __call__(self, progress: float) -> float:
        if progress < self.pct_start or self.pct_start == 1:
            return 1.0
        return cosine(1.0, self.end, (progress - self.pct_start) / (1 - self.pct_start))


@dataclass(frozen=True, slots=True)
class Exponential:
    """Geometric from `start` to `end`: `start * (end / start) ** progress`.

    >>> Exponential(1e-7, 10)(0.5)
    0.001
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return float(self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True, slots=True)
class Delayed:
    """0 until `start`, then the whole of another schedule: a group begins to train later.

    >>> late = delayed(0.5, FlatCosine(0.0, 0.0))
    >>> [late(t) for t in (0, 0.25, 0.5, 1)]
    [0.0, 0.0, 1.0, 0.0]
    """

    start: float
    schedule: Schedule

    def __post_init__(self) -> None:
        _check_fraction("start", self.start)
        arguments.function("schedule", self.schedule, "progress -> multiplier")

    def __call__(self, progress: float) -> float:
        if progress < self.start:
            return 0.0
        if self.start == 1:  # only the very end is left
            return self.schedule(1.0)
        return self.schedule((progress - self.start) / (1 - self.start))


def delayed(start: float, schedule: Schedule) -> Delayed:
    """`schedule`, squeezed into the progress from `start` to 1; before that the value is 0.

    >>> late = delayed(0.5, one_cycle(pct_start=0.5))
    >>> late(0.25), late(0.75)
    (0.0, 1.0)
    """
    return Delayed(start, schedule)


def check(schedule: Schedule, what: str) -> None:
    """Raises ValueError for a schedule with a negative or non-finite value anywhere in [0, 1].

    what: the hyper-parameter, for the message. Raises TypeError for what is no function.
    """
    rule = (
        "a schedule is a function from progress in [0, 1] to a multiplier, 0 or more, of the peak"
    )
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(f"the schedule of {what} is {schedule!r}; {rule}")
    for percent in range(101):
        progress = percent / 100
        value = schedule(progress)
        is_finite = hasattr(value, "__float__") and math.isfinite(value)
        if not is_finite or value < 0:
            raise ValueError(
                f"the schedule of {what} gives {value!r} at progress {progress}; {rule}"
            )


def one_cycle(*, div: float = 25.0, div_final: float = 1e5, pct_start: float = 0.25) -> OneCycle:
    """The learning rate of one cycle: `peak / div -> peak -> peak / div_final`.

    pct_start: the fraction of the phase at which the peak is reached.

    >>> cycle = one_cycle(div=25, pct_start=0.25)
    >>> [round(cycle(progress), 3) for progress in (0, 0.125, 0.25, 1)]
    [0.04, 0.52, 1.0, 0.0]
    """
    arguments.real_number("div", div, above=0)
    arguments.real_number("div_final", div_final, above=0)
    return OneCycle(1 / div, 1.0, 1 / div_final, pct_start)


def one_cycle_momentum(
    *, high: float = 0.95, low: float = 0.85, pct_start: float = 0.25
) -> OneCycle:
    """The momentum of one cycle, lowest where the rate is highest: `high -> low -> high`."""
    return OneCycle(high, low, high, pct_start)


# a custom function's code is not in a file, so only these can be read back
_BUILT_IN = {cls.__name__: cls for cls in (Constant, OneCycle, FlatCosine, Exponential, Delayed)}


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain data; of a function that is not built in only the name is recorded.

    >>> to_dict(Constant(0.9))
    {'name': 'Constant', 'value': 0.9}
    """
    if isinstance(schedule, Delayed):
        inner = to_dict(schedule.schedule)
        return {"name": "Delayed", "start": float(schedule.start), "schedule": inner}
    if type(schedule) in _BUILT_IN.values():
        fields = asdict(schedule)  # type: ignore[call-overload]
        numbers = {name: float(value) for name, value in fields.items()}
        return {"name": type(schedule).__name__, **numbers}
    name = getattr(schedule, "__qualname__", type(schedule).__qualname__)
    return {"name": name, "custom": True}


def from_dict(data: dict[str, Any]) -> Schedule:
    """The schedule that `to_dict` described. Raises ValueError for one that is not built in."""
    arguments = dict(data)
    name = arguments.pop("name")
    if name not in _BUILT_IN:
        raise ValueError(
            f"schedule {name!r} is your own function and can't be read from a file; "
            "make the same call again with checkpoint=, which brings the function along"
        )
    if "schedule" in arguments:
        arguments["schedule"] = from_dict(arguments["schedule"])
    return _BUILT_IN[name](**arguments)
