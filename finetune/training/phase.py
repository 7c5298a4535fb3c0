"""Phase: some epochs under one rule; a plan is a tuple of phases, plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeAlias

from finetune.models.group_values import checked_values
from finetune.optim import schedules
from finetune.optim.schedules import Schedule

Schedules: TypeAlias = Mapping[str, Schedule | tuple[Schedule, ...]]
"""Hyper-parameter -> one schedule for all groups, or one for each; constant if it is not there."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some epochs under one rule.

    frozen: how many groups, counted from the first, are frozen. peaks: hyper-parameter -> one value
    per group. schedules: hyper-parameter -> multiplier over the phase's progress in [0, 1], or one
    per group. The value of hyper-parameter h of group g is `peaks[h][g] * schedules[h](progress)`.
    views: None shows every epoch new random views of the images, k > 1 goes round k of them,
    and 1 is the view of validation.
    """

    name: str
    epochs: int
    frozen: int
    peaks: Mapping[str, tuple[float, ...]]
    schedules: Schedules = field(default_factory=dict)
    views: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, Integral) or self.epochs < 1:
            raise ValueError(f"epochs must be a positive whole number, got {self.epochs!r}")
        # plain numbers and tuples: a phase is compared, and stored in checkpoints
        peaks = {name: checked_values(v, name, list(v)) for name, v in self.peaks.items()}
        given = {n: tuple(s) if isinstance(s, list) else s for n, s in self.schedules.items()}
        for name, value in (("epochs", int(self.epochs)), ("peaks", peaks), ("schedules", given)):
            object.__setattr__(self, name, value)
        if self.views is not None and (not isinstance(self.views, int) or self.views < 1):
            raise ValueError(f"views must be a positive whole number or None, got {self.views!r}")
        unknown = sorted(set(self.schedules) - set(self.peaks))
        if unknown:
            raise ValueError(f"schedules without a peak: {', '.join(unknown)}")
        for name, given in self.schedules.items():
            own = given if isinstance(given, tuple) else (given,)
            if isinstance(given, tuple) and len(given) != len(self.peaks[name]):
                raise ValueError(
                    f"{name} has {len(given)} schedules for {len(self.peaks[name])} groups"
                )
            for schedule in own:
                schedules.check(schedule, name)

    def values(self, progress: float) -> dict[str, tuple[float, ...]]:
        """Hyper-parameter -> value per group at this point of the phase."""
        found = {}
        for name, peaks in self.peaks.items():
            schedule = self.schedules.get(name)
            if isinstance(schedule, tuple):
                pairs = zip(peaks, schedule, strict=True)
                peaks = tuple(peak * float(own(progress)) for peak, own in pairs)
            elif schedule is not None:
                multiplier = float(schedule(progress))
                peaks = tuple(peak * multiplier for peak in peaks)
            found[name] = peaks
        return found

    def largest(self) -> dict[str, tuple[float, ...]]:
        """Hyper-parameter -> its largest value in this phase, per group."""
        rows = [self.values(i / 100) for i in range(101)]
        return {
            name: tuple(map(max, zip(*(row[name] for row in rows), strict=True)))
            for name in self.peaks
        }

    def at(self, epoch: int, step: int, steps: int) -> dict[str, tuple[float, ...]]:
        """The values of step i of n in epoch e of E, at progress `(e + i / n) / E`."""
        return self.values((epoch + step / steps) / self.epochs)

    def view(self, epoch: int, first: int) -> int | None:
        """What the phase's epoch sees, see `DataLoaders.prepare`. first: number of epoch 0."""
        if self.views == 1:
            return None
        return first + (epoch if self.views is None else epoch % self.views)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "epochs": self.epochs,
            "frozen": self.frozen,
            "peaks": {name: list(peaks) for name, peaks in self.peaks.items()},
            "schedules": {
                name: list(map(schedules.to_dict, given))
                if isinstance(given, tuple)
                else schedules.to_dict(given)
                for name, given in self.schedules.items()
            },
            "views": self.views,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Phase":
        return cls(
            data["name"],
            data["epochs"],
            data["frozen"],
            {name: tuple(peaks) for name, peaks in data["peaks"].items()},
            {
                name: tuple(map(schedules.from_dict, given))
                if isinstance(given, list)
                else schedules.from_dict(given)
                for name, given in data["schedules"].items()
            },
            data.get("views"),
        )


Plan: TypeAlias = tuple[Phase, ...]
