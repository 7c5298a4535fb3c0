"""The plans that the fits run: what is going to happen, to be printed, plotted, stored, resumed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from finetune import arguments
from finetune.models.group_values import LayerDecay, LearningRates, PerGroup, checked_values
from finetune.models.layer_groups import LayerGroups
from finetune.optim.schedules import FlatCosine, Schedule, one_cycle, one_cycle_momentum
from finetune.training.phase import Interpolate, Phase, Plan, probe_phase
from finetune.wording import did_you_mean

KEPT_EPOCHS = 4
"""Epochs of the head on kept features: one takes 2 % of what it takes to run the backbone."""

SHORT_RUN = 2
"""Up to so many epochs, the earlier half of the body stays frozen, and where all layers
train, the first do best with a hundredth of the head's rate. Beyond, all train, with a tenth of it
for the first. At a hundredth early layers hardly move, and their backward pass is a third of a
step; measured, see examples/about/defaults.md."""

HeadTraining: TypeAlias = Literal["steps", "kept features", "probe"]
"""How a head may be trained alone: by steps in which the frozen layers run, by steps on their kept
outputs, or as the best linear head on these, which takes no steps."""


def keeps_features(head: HeadTraining) -> bool:
    """Whether the frozen layers' outputs can be kept, so that these need not run in every epoch."""
    return head != "steps"


ALL = "all"
"""The `unfreeze` that leaves no group frozen."""


def check(plan: Plan, groups: LayerGroups) -> None:
    """Raises ValueError for a plan that these groups can't follow.

    A momentum is no reason, where the optimizer has none: the cycles have one for any.
    """
    if not isinstance(plan, tuple) or not all(isinstance(phase, Phase) for phase in plan):
        shown = arguments.shown(plan)
        raise TypeError(f"plan must be a tuple of phases, got {shown}; one phase is (phase,)")
    if not plan:
        raise ValueError("plan has no phase")
    for phase in plan:
        for name, values in phase.peaks.items():
            if len(values) != len(groups):
                raise ValueError(
                    f"phase {phase.name!r} has {len(values)} values of {name} for {len(groups)} "
                    f"groups ({', '.join(groups.names)})"
                )
            if name != "momentum":
                checked_values(values, name, groups.values_of(name))
        if not 0 <= phase.frozen < len(groups):
            raise ValueError(
                f"phase {phase.name!r} freezes {phase.frozen} of {len(groups)} groups "
                f"({', '.join(groups.names)}); it must be 0 or more, and leave one"
            )
        if phase.probe and phase.frozen != len(groups) - 1:
            raise ValueError(
                f"phase {phase.name!r} is a probe, which freezes all groups but the last one, "
                f"{groups.names[-1]!r}, and this one freezes {phase.frozen} of {len(groups)}"
            )
        _check_trains(phase, groups)
        if "lr" not in phase.peaks:
            raise ValueError(f"phase {phase.name!r} has no lr among its peaks")
        if phase.interpolate and phase is not plan[-1]:
            raise ValueError(
                f"phase {phase.name!r} has interpolate={phase.interpolate!r}, which is for the "
                "last phase of a plan"
            )


def check_can_choose(plan: Plan, *, validates: bool) -> None:
    """Raises ValueError for a plan that chooses by validation where there is none."""
    if plan[-1].interpolate is True and not validates:
        raise ValueError(
            "interpolate=True takes the weights that validation likes best, and there is no "
            "validation data; pass some, or leave interpolate out"
        )


def _check_trains(phase: Phase, groups: LayerGroups) -> None:
    for i, group in enumerate(groups):
        if group.trains_if(frozen=i < phase.frozen):
            return
    raise ValueError(
        f"nothing trains in phase {phase.name!r}: what it does not freeze is frozen by hand "
        "(requires_grad_(False)); set requires_grad_(True) for what should train, or freeze less"
    )


def fit_plan(
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    *,
    peaks: Mapping[str, PerGroup[float]] | None = None,
    schedules: Mapping[str, PerGroup[Schedule]] | None = None,
    momentum: PerGroup[float] | None = 0.9,
) -> Plan:
    """One phase, with every hyper-parameter constant but those that have a schedule.

    peaks: of hyper-parameters besides lr, momentum among them, in any way of
    `LayerGroups.per_group`; a schedule of one that is not there is over its present value.
    schedules: hyper-parameter -> multiplier over the progress, for all groups or by group:
    `{"lr": {"head": one_cycle(), "*": delayed(0.3, one_cycle())}}`.
    """
    peaks = {} if peaks is None else peaks
    schedules = {} if schedules is None else schedules
    phase_peaks = {"lr": groups.spread(lr)}
    if momentum is not None:
        phase_peaks["momentum"] = groups.per_group(momentum, "momentum")
    arguments.mapping("peaks", peaks, "hyper-parameters to values")
    arguments.mapping("schedules", schedules, "hyper-parameters to schedules")
    phase_peaks |= _checked_peaks(groups, peaks)
    phase_schedules: dict[str, Schedule | tuple[Schedule, ...]] = {}
    for name, schedule in schedules.items():
        if name not in phase_peaks:
            phase_peaks[name] = groups.values_of(name)
        by_group = groups.per_group(schedule, f"schedule of {name}")
        all_alike = all(of_group == by_group[0] for of_group in by_group)
        phase_schedules[name] = by_group[0] if all_alike else by_group
    return (Phase("fit", epochs, groups.frozen_count, phase_peaks, phase_schedules),)


def _checked_peaks(
    groups: LayerGroups, peaks: Mapping[str, PerGroup[float]]
) -> dict[str, tuple[float, ...]]:
    """One value per group of each hyper-parameter besides lr."""
    checked = {}
    for name, values in peaks.items():
        if name == "lr":
            raise ValueError("the peaks of lr are the argument lr; leave them out of peaks")
        present = groups.values_of(name)
        by_group = groups.per_group(values, name)
        checked[name] = checked_values(by_group, name, present, shown=values)
    return checked


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
    """One cycle of learning rate and, against it, momentum (Smith 2018).

    frozen: how many groups are frozen; None leaves frozen what is. views: see `Phase`.
    """
    peaks = {"lr": groups.spread(lr), "momentum": (1.0,) * len(groups)}
    schedules = {
        "lr": one_cycle(div=div, div_final=div_final, pct_start=pct_start),
        "momentum": one_cycle_momentum(pct_start=pct_start),
    }
    if frozen is None:
        frozen = groups.frozen_count
    return (Phase(name, epochs, frozen, peaks, schedules, views),)


@dataclass(frozen=True, slots=True)
class FineTune:
    """What `Learner.fine_tune` is asked for; `plan` makes phases of it.

    The head alone, then more of the model at half the rate, and up to `lr_mult` lower in early
    layers.
    epochs: of the second phase. base_lr: peak rate of the head in a frozen phase of steps.
    freeze_epochs: of steps with the head alone; None is a probe where the head is one linear layer
    and the frozen layers' outputs can be kept, else `KEPT_EPOCHS` where they can, else 1.
    freeze_views: how many views of each image the frozen phase goes round, see `Phase`. lr_mult:
    None is 100 for up to `SHORT_RUN` epochs and 10 for more. layer_decay: in its place, see
    `LayerDecay`. unfreeze: what trains in the second phase: "all", or the name of a group, which
    trains with those above it. None is "all" where there are more than `SHORT_RUN`
    epochs or lr_mult or layer_decay is given, else the later half of the groups below the head, and
    the head. pct_start, div: of the second cycle. interpolate: between the weights before and after
    the second phase, see `Phase`; None is "if worse" after a probe, else False.
    Source: the two calls of `fit_one_cycle` that fastai's `fine_tune` is; its frozen one has its
    peak at the end.
    Raises ValueError or TypeError for values that make no plan.
    """

    epochs: int
    base_lr: float = 2e-3
    freeze_epochs: int | None = None
    freeze_views: int | None = None
    lr_mult: float | None = None
    layer_decay: float | None = None
    unfreeze: str | None = None
    pct_start: float = 0.3
    div: float = 5.0
    interpolate: bool | None = None

    def __post_init__(self) -> None:
        if self.layer_decay is not None and self.lr_mult is not None:
            raise ValueError(
                f"give lr_mult or layer_decay, not both; got {self.lr_mult} and {self.layer_decay}"
            )
        arguments.whole_number("epochs", self.epochs, at_least=1)
        _check_rates(self.base_lr, self.lr_mult)
        if self.freeze_epochs is not None:
            arguments.whole_number("freeze_epochs", self.freeze_epochs, at_least=0)
        if self.freeze_views is not None:
            arguments.whole_number("freeze_views", self.freeze_views, at_least=1)
        if self.layer_decay is not None:
            arguments.real_number("layer_decay", self.layer_decay, above=0, at_most=1)
        if self.unfreeze is not None:
            arguments.text("unfreeze", self.unfreeze)
        if self.interpolate is not None:
            arguments.flag("interpolate", self.interpolate)
        one_cycle(div=self.div, pct_start=self.pct_start)  # the schedule checks its arguments

    def plan(self, groups: LayerGroups, *, head: HeadTraining) -> Plan:
        """The phase of the head alone, unless it has no epoch, and the one in which more trains.

        head: the best way in which the head of this model may be trained alone. Raises ValueError
        for a single group, and for an `unfreeze` that is none of them.
        """
        if len(groups) < 2:
            raise ValueError(
                "fine_tune freezes all groups but the last, and this model has one group only; "
                "pass split= to say where groups begin, or use fit_one_cycle"
            )
        frozen = self._frozen_in_second_phase(groups)
        (unfrozen,) = one_cycle_plan(
            groups,
            self.epochs,
            self._unfrozen_rates(groups, head_is_best=head == "probe"),
            pct_start=self.pct_start,
            div=self.div,
            frozen=frozen,
            name=_name_of_what_trains(groups, frozen) if frozen else "unfrozen",
        )
        interpolate: Interpolate = "if worse" if head == "probe" else False
        if self.interpolate is not None:
            interpolate = self.interpolate
        unfrozen = replace(unfrozen, interpolate=interpolate, unfreezes_at_end=unfrozen.frozen > 0)
        return (*self._frozen_plan(groups, head), unfrozen)

    def _frozen_in_second_phase(self, groups: LayerGroups) -> int:
        """How many groups stay frozen while the others train."""
        if self.unfreeze is None:
            has_own_spread = self.lr_mult is not None or self.layer_decay is not None
            is_short = self.epochs <= SHORT_RUN and not has_own_spread
            return (len(groups) - 1) // 2 if is_short else 0
        if self.unfreeze == ALL:
            return 0
        if self.unfreeze not in groups.names:
            hint = did_you_mean(self.unfreeze, [ALL, *groups.names])
            raise ValueError(f"unfreeze={self.unfreeze!r} is no layer group; {hint}")
        return groups.names.index(self.unfreeze)

    def _frozen_plan(self, groups: LayerGroups, head: HeadTraining) -> Plan:
        """The head alone: with rates that rise to the end, or come down again on kept features."""
        if head == "probe":
            return (probe_phase(groups),)
        epochs, views, peak_at = self.freeze_epochs, self.freeze_views, 0.99
        if epochs is None and head == "kept features":
            epochs, peak_at = KEPT_EPOCHS, 0.3
            # the view of validation, so without augmentation
            views = 1 if views is None else views
        elif epochs is None:
            epochs = 1
        if epochs == 0:
            return ()
        return one_cycle_plan(
            groups,
            epochs,
            slice(self.base_lr),
            pct_start=peak_at,
            frozen=len(groups) - 1,
            views=views,
            name="frozen",
        )

    def _unfrozen_rates(self, groups: LayerGroups, *, head_is_best: bool) -> LearningRates:
        """The peaks of the second phase.

        head_is_best: for the features as they are, after a probe. Then it moves no faster than the
        group below: steps of an adaptive optimizer are as long near the optimum as far from it.
        """
        head_rate = self.base_lr / 2
        lr_mult = self.lr_mult
        if lr_mult is None:
            lr_mult = 100.0 if self.epochs <= SHORT_RUN else 10.0
        rates: LearningRates = slice(head_rate / lr_mult, head_rate)
        if self.layer_decay is not None:
            rates = LayerDecay(head_rate, self.layer_decay)
        if not head_is_best:
            return rates
        *of_body, _ = groups.spread(rates)
        return [*of_body, of_body[-1]]


def fine_tune_plan(
    groups: LayerGroups, epochs: int, *, head: HeadTraining = "steps", **options: Any
) -> Plan:
    """The plan of `FineTune(epochs, **options)`."""
    return FineTune(epochs, **options).plan(groups, head=head)


PlanRequest: TypeAlias = Plan | FineTune
"""A plan, or a `FineTune` whose plan depends on what can be kept."""


def _check_rates(base_lr: float, lr_mult: float | None) -> None:
    if isinstance(base_lr, slice | list | tuple | Mapping | LayerDecay):
        raise TypeError(
            f"base_lr is one number; lr_mult spreads it over the groups, got {base_lr!r}"
        )
    arguments.real_number("base_lr", base_lr, above=0)
    if lr_mult is not None:
        arguments.real_number("lr_mult", lr_mult, above=0)


def gradual_unfreeze_plan(
    groups: LayerGroups,
    *,
    epochs_per_group: int = 1,
    base_lr: float = 2e-3,
    lr_mult: float = 100.0,
) -> Plan:
    """The head alone, then one group more in each phase, until everything trains.

    The head's rate peaks at `base_lr` while it is alone and at half of it later; the groups below
    have up to `lr_mult` less, each its own rate in all phases.
    Source: gradual unfreezing (Howard and Ruder 2018, ULMFiT), with cycles as in `fine_tune`.
    """
    arguments.whole_number("epochs_per_group", epochs_per_group, at_least=1)
    arguments.real_number("lr_mult", lr_mult, above=0)
    _check_rates(base_lr, lr_mult)
    if len(groups) < 2:
        raise ValueError("there is one layer group only, so nothing can be frozen; pass split=")
    plan: Plan = ()
    for frozen in reversed(range(len(groups))):
        is_head_alone = frozen == len(groups) - 1
        rates = slice(base_lr) if is_head_alone else slice(base_lr / 2 / lr_mult, base_lr / 2)
        name = _name_of_what_trains(groups, frozen) if frozen else ALL
        plan += one_cycle_plan(
            groups, epochs_per_group, rates, pct_start=0.3, div=5.0, frozen=frozen, name=name
        )
    return plan


def _name_of_what_trains(groups: LayerGroups, frozen: int) -> str:
    """The name of a phase in which so many groups are frozen."""
    first = groups[frozen].name
    return first if frozen == len(groups) - 1 else f"{first} and above"


def flat_cosine_plan(
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    *,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    momentum: PerGroup[float] | None = 0.9,
) -> Plan:
    """Flat, then cosine to `lr / div_final` from `pct_start` on."""
    arguments.real_number("div_final", div_final, above=0)
    schedule = FlatCosine(pct_start, 1 / div_final)
    return (_constant_momentum_phase("flat cosine", groups, epochs, lr, schedule, momentum),)


def restarts_plan(
    groups: LayerGroups,
    cycles: int,
    cycle_epochs: int,
    lr: LearningRates,
    *,
    cycle_mult: int = 2,
    momentum: PerGroup[float] | None = 0.9,
) -> Plan:
    """Cosine to 0 with restarts, every cycle longer (SGDR, Loshchilov and Hutter 2016)."""
    arguments.whole_number("cycles", cycles, at_least=1)
    arguments.whole_number("cycle_epochs", cycle_epochs, at_least=1)
    arguments.whole_number("cycle_mult", cycle_mult, at_least=1)
    schedule = FlatCosine(0.0, 0.0)
    phases = []
    for number in range(cycles):
        epochs = cycle_epochs * cycle_mult**number
        name = f"cycle {number + 1}"
        phases.append(_constant_momentum_phase(name, groups, epochs, lr, schedule, momentum))
    return tuple(phases)


def _constant_momentum_phase(
    name: str,
    groups: LayerGroups,
    epochs: int,
    lr: LearningRates,
    schedule: Schedule,
    momentum: PerGroup[float] | None,
) -> Phase:
    """A phase whose momentum is constant; None for an optimizer that has none.

    It is in the plan, so that what a step does can't depend on what an earlier fit left behind.
    """
    peaks = {"lr": groups.spread(lr)}
    if momentum is not None:
        peaks["momentum"] = groups.per_group(momentum, "momentum")
    return Phase(name, epochs, groups.frozen_count, peaks, {"lr": schedule})
