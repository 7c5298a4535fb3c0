"""Phase and plans: what is going to happen, as data to be printed, plotted, stored, resumed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from finetune.models.layer_groups import LayerGroups, LearningRates
from finetune.optim import schedules
from finetune.optim.schedules import Constant, FlatCosine, Schedule, one_cycle, one_cycle_momentum


@dataclass(frozen=True, slots=True)
class Phase:
    """Some epochs under one rule.

    frozen: how many groups, counted from the first, are frozen. peaks: hyper-parameter -> one value
    per group. schedules: hyper-parameter -> multiplier over the phase's progress in [0, 1].
    The value of hyper-parameter h of group g is `peaks[h][g] * schedules[h](progress)`.
    views: None shows every epoch new random views of the pictures, k > 1 goes round k of them,
    and 1 is the view of validation.
    """

    name: str
    epochs: int
    frozen: int
    peaks: Mapping[str, tuple[float, ...]]
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    views: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"epochs must be a positive whole number, got {self.epochs!r}")
        if self.views is not None and (not isinstance(self.views, int) or self.views < 1):
            raise ValueError(f"views must be a positive whole number or None, got {self.views!r}")
        unknown = sorted(set(self.schedules) - set(self.peaks))
        if unknown:
            raise ValueError(f"schedules without a peak: {', '.join(unknown)}")

    def values(self, progress: float) -> dict[str, tuple[float, ...]]:
        """Hyper-parameter -> value per group at this point of the phase."""
        multipliers = {name: self.schedules.get(name, Constant())(progress) for name in self.peaks}
        return {n: tuple(peak * multipliers[n] for peak in self.peaks[n]) for n in self.peaks}

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
            "schedules": {name: schedules.to_dict(s) for name, s in self.schedules.items()},
            "views": self.views,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Phase":
        return cls(
            data["name"],
            data["epochs"],
            data["frozen"],
            {name: tuple(peaks) for name, peaks in data["peaks"].items()},
            {name: schedules.from_dict(s) for name, s in data["schedules"].items()},
            data.get("views"),
        )


Plan: TypeAlias = tuple[Phase, ...]

KEPT_EPOCHS = 4
"""Of the head on kept features: one of them takes 2 % of what it takes to run the backbone."""


def plan_values(
    plan: Plan, steps_per_epoch: int
) -> Iterator[tuple[Phase, dict[str, tuple[float, ...]]]]:
    """The hyper-parameters of every step of a plan, without running it."""
    for phase in plan:
        for epoch in range(phase.epochs):
            for step in range(steps_per_epoch):
                yield phase, phase.at(epoch, step, steps_per_epoch)


def fit_plan(
    groups: LayerGroups, epochs: int, lr: LearningRates, *, momentum: float | None = 0.9
) -> Plan:
    """One phase at constant rates and constant momentum."""
    return (_with_momentum("fit", groups, epochs, lr, Constant(), momentum),)


def one_cycle_plan(
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    frozen: int | None = None,
    views: int | None = None,
    name: str = "one cycle",
) -> Plan:
    """One cycle of learning rate and, against it, momentum (Smith 2018)."""
    count = groups.frozen_count if frozen is None else frozen
    return (
        Phase(
            name,
            epochs,
            count,
            {"lr": groups.spread(lr), "momentum": (1.0,) * len(groups)},
            {
                "lr": one_cycle(div=div, div_final=div_final, pct_start=pct_start),
                "momentum": one_cycle_momentum(pct_start=pct_start),
            },
            views,
        ),
    )


def fine_tune_plan(
    groups: LayerGroups,
    epochs: int,
    *,
    base_lr: float = 2e-3,
    freeze_epochs: int | None = 1,
    freeze_views: int | None = None,
    lr_mult: float = 100.0,
    pct_start: float = 0.3,
    div: float = 5.0,
) -> Plan:
    """The head alone, then everything at half the rate, and up to `lr_mult` lower in early layers.

    freeze_epochs: None is for a frozen phase whose epochs cost next to nothing: `KEPT_EPOCHS` over
    the view of validation, unless `freeze_views` says otherwise, with rates that come down again.
    Source: the two calls of `fit_one_cycle` that fastai's `fine_tune` is; its frozen one has its
    peak at the end.
    """
    if len(groups) < 2:
        raise ValueError(
            "fine_tune freezes all groups but the last, and this model has one group only; "
            "pass split= to say where groups begin, or use fit_one_cycle"
        )
    if not isinstance(base_lr, int | float):
        raise TypeError(f"base_lr is one number; lr_mult spreads it over the groups: {base_lr!r}")
    if not lr_mult > 0:
        raise ValueError(f"lr_mult divides the learning rate and must be positive, got {lr_mult}")
    peak_at = 0.99
    if freeze_epochs is None:
        freeze_epochs, peak_at = KEPT_EPOCHS, 0.3
        freeze_views = 1 if freeze_views is None else freeze_views
    if not isinstance(freeze_epochs, int) or freeze_epochs < 0:
        raise ValueError(f"freeze_epochs must be a whole number, 0 or more, got {freeze_epochs!r}")
    if freeze_views is not None and (not isinstance(freeze_views, int) or freeze_views < 1):
        raise ValueError(f"freeze_views must be 1 or more, or None, got {freeze_views!r}")
    frozen: Plan = ()
    if freeze_epochs:
        frozen = one_cycle_plan(
            groups, freeze_epochs, slice(base_lr), pct_start=peak_at, frozen=len(groups) - 1,
            views=freeze_views, name="frozen",
        )  # fmt: skip
    rates = slice(base_lr / 2 / lr_mult, base_lr / 2)
    return frozen + one_cycle_plan(
        groups, epochs, rates, pct_start=pct_start, div=div, frozen=0, name="unfrozen"
    )


def flat_cosine_plan(
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    *,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    momentum: float | None = 0.9,
) -> Plan:
    """Flat, then cosine to `lr / div_final` from `pct_start` on."""
    schedule = FlatCosine(pct_start, 1 / div_final)
    return (_with_momentum("flat cosine", groups, epochs, lr, schedule, momentum),)


def restarts_plan(
    groups: LayerGroups,
    cycles: int,
    cycle_epochs: int,
    lr: LearningRates,
    *,
    cycle_mult: int = 2,
    momentum: float | None = 0.9,
) -> Plan:
    """Cosine to 0 with restarts, every cycle longer (SGDR, Loshchilov and Hutter 2016)."""
    if not isinstance(cycles, int) or cycles < 1:
        raise ValueError(f"cycles must be a positive whole number, got {cycles!r}")
    schedule = FlatCosine(0.0, 0.0)
    lengths = [cycle_epochs * cycle_mult**i for i in range(cycles)]
    return tuple(
        _with_momentum(f"cycle {i + 1}", groups, length, lr, schedule, momentum)
        for i, length in enumerate(lengths)
    )


def _with_momentum(
    name: str,
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    schedule: Schedule,
    momentum: float | None,
) -> Phase:
    """A phase whose momentum is constant; None for an optimizer that has none.

    It is in the plan, so that what a step does can't depend on what an earlier fit left behind.
    """
    peaks = {"lr": groups.spread(lr)}
    if momentum is not None:
        peaks["momentum"] = (momentum,) * len(groups)
    return Phase(name, epochs, groups.frozen_count, peaks, {"lr": schedule})
