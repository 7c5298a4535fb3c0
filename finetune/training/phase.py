"""Phase: some epochs under one rule; a plan is a tuple of phases, plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from finetune import arguments
from finetune.models.group_values import checked_values
from finetune.models.layer_groups import LayerGroups
from finetune.optim import schedules
from finetune.optim.schedules import Schedule

Schedules: TypeAlias = Mapping[str, Schedule | tuple[Schedule, ...]]
"""Hyper-parameter -> one schedule for all groups, or one for each; without one it is constant."""


Interpolate: TypeAlias = "bool | Literal['if worse']"
"""Whether a phase ends between its first weights and its last ones: always, never, or where
validation likes the last ones less than the first ones."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some epochs under one rule.

    frozen: how many groups, counted from the first, are frozen. peaks: hyper-parameter -> one value
    per group. schedules: hyper-parameter -> multiplier over the phase's progress in [0, 1], or one
    per group. The value of hyper-parameter h of group g is `peaks[h][g] * schedules[h](progress)`.
    views: None shows new random views of the images in every epoch; k > 1 shows k of them in turn;
    1 shows the view of validation. interpolate: keeps the weights at the beginning; after the last
    epoch the model takes the point between them and those at the end that validation likes best,
    see `training.between`; "if worse" does so only where the end is worse than the beginning. Only
    the last phase of a plan may do so. unfreezes_at_end: nothing is
    frozen once the run has ended in this phase, so that a later fit trains everything. probe: the
    head takes no steps, it is made the best linear one on the features of the view of validation,
    see `training.probing`; such a phase is one epoch, and its peaks mean nothing.

    >>> from finetune import one_cycle
    >>> phase = Phase("all", 2, 0, {"lr": (1e-4, 1e-2)}, {"lr": one_cycle(pct_start=0.5)})
    >>> phase.at(epoch=1, step=0, steps=10)["lr"]
    (0.0001, 0.01)
    """

    name: str
    epochs: int
    frozen: int
    peaks: Mapping[str, tuple[float, ...]]
    schedules: Schedules = field(default_factory=dict)
    views: int | None = None
    interpolate: Interpolate = False
    unfreezes_at_end: bool = False
    probe: bool = False

    def __post_init__(self) -> None:
        arguments.instance("name", self.name, str)
        # plain numbers and tuples, because a phase is compared and stored in checkpoints
        epochs = arguments.whole_number("epochs", self.epochs, at_least=1)
        object.__setattr__(self, "epochs", epochs)
        frozen = arguments.whole_number("frozen", self.frozen, at_least=0)
        object.__setattr__(self, "frozen", frozen)
        if self.views is not None:
            views = arguments.whole_number("views", self.views, at_least=1)
            object.__setattr__(self, "views", views)
        if self.interpolate != "if worse":
            arguments.flag("interpolate", self.interpolate)
        arguments.flag("unfreezes_at_end", self.unfreezes_at_end)
        arguments.flag("probe", self.probe)
        if self.probe and (self.epochs, self.views) != (1, 1):
            raise ValueError(
                f"phase {self.name!r} is a probe, which has epochs=1 and views=1, got "
                f"epochs={self.epochs} and views={self.views}"
            )
        arguments.mapping("peaks", self.peaks, "hyper-parameters to one value per group")
        arguments.mapping("schedules", self.schedules, "hyper-parameters to schedules")
        peaks = {}
        for name, values in self.peaks.items():
            values_of_groups = arguments.sequence(f"peaks[{name!r}]", values, "one value per group")
            peaks[name] = checked_values(values_of_groups, name, values_of_groups)
        object.__setattr__(self, "peaks", peaks)
        schedules_by_name: dict[str, Schedule | tuple[Schedule, ...]] = {}
        for name, schedule in self.schedules.items():
            if isinstance(schedule, list):
                schedule = tuple(schedule)
            schedules_by_name[name] = schedule
        object.__setattr__(self, "schedules", schedules_by_name)
        self._check_schedules()

    def _check_schedules(self) -> None:
        without_peak = sorted(set(self.schedules) - set(self.peaks))
        if without_peak:
            raise ValueError(f"schedules without a peak: {', '.join(without_peak)}")
        for name, schedule in self.schedules.items():
            if not isinstance(schedule, tuple):
                schedules.check(schedule, name)
                continue
            group_count = len(self.peaks[name])
            if len(schedule) != group_count:
                raise ValueError(f"{name} has {len(schedule)} schedules for {group_count} groups")
            for schedule_of_group in schedule:
                schedules.check(schedule_of_group, name)

    def values(self, progress: float) -> dict[str, tuple[float, ...]]:
        """Hyper-parameter -> value per group at this point of the phase, progress in [0, 1]."""
        values = {}
        for name, peaks in self.peaks.items():
            schedule = self.schedules.get(name)
            if schedule is None:
                values[name] = peaks
            elif isinstance(schedule, tuple):
                products = []
                for peak, schedule_of_group in zip(peaks, schedule, strict=True):
                    products.append(peak * float(schedule_of_group(progress)))
                values[name] = tuple(products)
            else:
                multiplier = float(schedule(progress))
                values[name] = tuple(peak * multiplier for peak in peaks)
        return values

    def largest(self) -> dict[str, tuple[float, ...]]:
        """Hyper-parameter -> its largest value in this phase, per group."""
        largest = self.values(0.0)
        for percent in range(1, 101):
            for name, values in self.values(percent / 100).items():
                largest[name] = tuple(map(max, largest[name], values))
        return largest

    def at(self, epoch: int, step: int, steps: int) -> dict[str, tuple[float, ...]]:
        """The values of step i of n in epoch e of E, at progress `(e + i / n) / E`."""
        return self.values((epoch + step / steps) / self.epochs)

    def view(self, epoch: int, first: int) -> int | None:
        """Which random view of the images an epoch of the phase sees, see `DataLoaders.prepare`.

        None is the view of validation. first: the view of epoch 0.
        """
        if self.views == 1:
            return None
        if self.views is None:
            return first + epoch
        return first + epoch % self.views

    def to_dict(self) -> dict[str, Any]:
        """The phase as plain data; of a schedule that is not built in, only the name is kept."""
        schedule_data: dict[str, Any] = {}
        for name, schedule in self.schedules.items():
            if isinstance(schedule, tuple):
                schedule_data[name] = [schedules.to_dict(of_group) for of_group in schedule]
            else:
                schedule_data[name] = schedules.to_dict(schedule)
        data: dict[str, Any] = {
            "name": self.name,
            "epochs": self.epochs,
            "frozen": self.frozen,
            "peaks": {name: list(peaks) for name, peaks in self.peaks.items()},
            "schedules": schedule_data,
            "views": self.views,
        }
        # only where they are set: a plan is compared with those of files that are older than they
        for flag in ("interpolate", "unfreezes_at_end", "probe"):
            if getattr(self, flag):
                data[flag] = getattr(self, flag)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Phase":
        """The phase that `to_dict` described; raises ValueError for a schedule not built in."""
        schedules_by_name: dict[str, Schedule | tuple[Schedule, ...]] = {}
        for name, schedule_data in data["schedules"].items():
            if isinstance(schedule_data, list):
                schedules_by_name[name] = tuple(map(schedules.from_dict, schedule_data))
            else:
                schedules_by_name[name] = schedules.from_dict(schedule_data)
        return cls(
            data["name"],
            data["epochs"],
            data["frozen"],
            {name: tuple(peaks) for name, peaks in data["peaks"].items()},
            schedules_by_name,
            data.get("views"),  # files from before there were views are without them
            data.get("interpolate", False),
            data.get("unfreezes_at_end", False),
            data.get("probe", False),
        )


PROBE = "probe"
"""The name of a phase that is a probe, in plans and in the history."""


def probe_phase(groups: LayerGroups) -> Phase:
    """The phase in which the head becomes the best linear one on frozen features."""
    # a phase has rates: those in force, with which no step is done
    return Phase(PROBE, 1, len(groups) - 1, {"lr": groups.values_of("lr")}, views=1, probe=True)


Plan: TypeAlias = tuple[Phase, ...]
