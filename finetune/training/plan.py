"""The plans that the fits run: what is going to happen, to be printed, plotted, stored, resumed."""

from collections.abc import Mapping
from numbers import Real

from finetune.models.group_values import LayerDecay, LearningRates, PerGroup, checked_values
from finetune.models.layer_groups import LayerGroups
from finetune.optim.schedules import FlatCosine, Schedule, one_cycle, one_cycle_momentum
from finetune.training.phase import Phase, Plan

KEPT_EPOCHS = 4
"""Of the head on kept features: one of them takes 2 % of what it takes to run the backbone."""

SHORT_RUN = 2
"""Up to so many epochs, early layers do best with a hundredth of the head's rate, beyond with a
tenth; measured, see the README."""


def check(plan: Plan, groups: LayerGroups) -> None:
    """Raises ValueError for a plan that these groups can't follow.

    A momentum is no reason, where the optimizer has none: the cycles have one for any.
    """
    if not isinstance(plan, tuple) or not all(isinstance(phase, Phase) for phase in plan):
        raise TypeError(f"a plan is a tuple of phases, got {plan!r}; one phase is (phase,)")
    if not plan:
        raise ValueError("the plan has no phase")
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
        if "lr" not in phase.peaks:
            raise ValueError(f"phase {phase.name!r} has no lr among its peaks")


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
    given = {"lr": groups.spread(lr)}
    if momentum is not None:
        given["momentum"] = groups.per_group(momentum, "momentum")
    for name, values in (peaks or {}).items():
        if name == "lr":
            raise ValueError("the peaks of lr are the argument lr; leave them out of peaks")
        present = groups.values_of(name)
        given[name] = checked_values(groups.per_group(values, name), name, present, shown=values)
    found: dict[str, Schedule | tuple[Schedule, ...]] = {}
    for name, own in (schedules or {}).items():
        if name not in given:
            given[name] = groups.values_of(name)
        each = groups.per_group(own, f"schedule of {name}")
        found[name] = each[0] if all(one == each[0] for one in each) else each
    return (Phase("fit", epochs, groups.frozen_count, given, found),)


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
    lr_mult: float | None = None,
    layer_decay: float | None = None,
    pct_start: float = 0.3,
    div: float = 5.0,
) -> Plan:
    """The head alone, then everything at half the rate, and up to `lr_mult` lower in early layers.

    lr_mult: None is 100 for up to `SHORT_RUN` epochs and 10 for more. layer_decay: in its place,
    see `LayerDecay`.

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
    if layer_decay is not None and lr_mult is not None:
        raise ValueError(f"give lr_mult or layer_decay, not both; got {lr_mult} and {layer_decay}")
    if lr_mult is None:
        lr_mult = 100.0 if epochs <= SHORT_RUN else 10.0
    _check_rates(base_lr, lr_mult)
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
    rates: LearningRates = slice(base_lr / 2 / lr_mult, base_lr / 2)
    if layer_decay is not None:
        rates = LayerDecay(base_lr / 2, layer_decay)
    return frozen + one_cycle_plan(
        groups, epochs, rates, pct_start=pct_start, div=div, frozen=0, name="unfrozen"
    )


def _check_rates(base_lr: float, lr_mult: float) -> None:
    if not isinstance(base_lr, Real):
        raise TypeError(f"base_lr is one number; lr_mult spreads it over the groups: {base_lr!r}")
    if not lr_mult > 0:
        raise ValueError(f"lr_mult divides the learning rate and must be positive, got {lr_mult}")


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
    _check_rates(base_lr, lr_mult)
    if len(groups) < 2:
        raise ValueError("there is one layer group only, so nothing can be frozen; pass split=")
    plan: Plan = ()
    for frozen in reversed(range(len(groups))):
        alone = frozen == len(groups) - 1
        name = "all" if not frozen else f"{groups[frozen].name}{'' if alone else ' and above'}"
        rates = slice(base_lr) if alone else slice(base_lr / 2 / lr_mult, base_lr / 2)
        plan += one_cycle_plan(
            groups, epochs_per_group, rates, pct_start=0.3, div=5.0, frozen=frozen, name=name
        )
    return plan


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
    schedule = FlatCosine(pct_start, 1 / div_final)
    return (_with_momentum("flat cosine", groups, epochs, lr, schedule, momentum),)


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
    momentum: PerGroup[float] | None,
) -> Phase:
    """A phase whose momentum is constant; None for an optimizer that has none.

    It is in the plan, so that what a step does can't depend on what an earlier fit left behind.
    """
    peaks = {"lr": groups.spread(lr)}
    if momentum is not None:
        peaks["momentum"] = groups.per_group(momentum, "momentum")
    return Phase(name, epochs, groups.frozen_count, peaks, {"lr": schedule})
