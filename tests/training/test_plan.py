"""Plans: what is going to happen, as data; and the figures of fastai, step by step."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    StopAt,
    copy_of,
    golden_figures,
    plan_values,
    same_state,
    tiny_data,
    tiny_learner,
    tiny_model,
)
from torch import nn

from finetune import Callback, LayerGroups, Phase
from finetune.learner import Learner
from finetune.optim.schedules import (
    Constant,
    FlatCosine,
    OneCycle,
    delayed,
    one_cycle,
    one_cycle_momentum,
)
from finetune.training import plan as plans
from finetune.training.events import StepEnd


def groups_of(count: int) -> LayerGroups:
    return LayerGroups.from_model(tiny_model(count), list(range(1, count)))


def phase(**options: Any) -> Phase:
    given = {"name": "p", "epochs": 2, "frozen": 0, "peaks": {"lr": (0.1, 0.2)}, **options}
    return Phase(**given)


# --- parity with fastai


TRAJECTORIES = golden_figures("fine_tune_trajectory.json")["cases"]


def as_argument(value: Any) -> Any:
    return slice(*value["slice"]) if isinstance(value, dict) else value


class FrozenGroups(Callback):
    """Per step: which groups have no parameter that takes gradients."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.rows: list[list[bool]] = []

    def on_step_end(self, event: StepEnd) -> None:
        groups = self.learner.layer_groups
        self.rows.append(
            [not any(p.requires_grad for p in group.parameters.values()) for group in groups]
        )


@pytest.mark.parametrize(
    "case", TRAJECTORIES, ids=lambda c: f"{c['groups']} {c['call']['method']} {c['call']['args']}"
)
def test_rates_momenta_and_freezing_are_those_of_fastai(case: dict[str, Any]):
    learner = tiny_learner(case["groups"], data=tiny_data(28, 4), optimizer=torch.optim.Adam)
    frozen, call = FrozenGroups(learner), case["call"]
    arguments, options = map(as_argument, call["args"]), dict(call["kwargs"])
    if call["method"] == "fine_tune":
        options.setdefault("lr_mult", 100.0)  # fastai's default; ours depends on the epochs
    getattr(learner, call["method"])(*arguments, **options, callbacks=[frozen])

    steps, expected = learner.history.steps, np.array(case["lr"])
    assert [row.step for row in steps] == case["batch"]
    assert frozen.rows == case["frozen"]
    np.testing.assert_allclose([row.momentum for row in steps], case["mom"], rtol=1e-6)
    rates = np.array([row.lr for row in steps])
    assert rates.shape == expected.shape
    near = np.isclose(rates, expected, rtol=1e-6, atol=1e-7 * expected.max(0))
    assert (near | np.isclose(rates, expected, rtol=5e-6, atol=0)).all()


# --- what the calls mean


def test_fine_tune_is_a_frozen_and_an_unfrozen_cycle():
    frozen, unfrozen = plans.fine_tune_plan(
        groups_of(3), 4, base_lr=2e-3, freeze_epochs=2, lr_mult=100
    )
    assert (frozen.name, frozen.epochs, frozen.frozen) == ("frozen", 2, 2)
    assert frozen.peaks["lr"] == (2e-4, 2e-4, 2e-3)
    assert frozen.schedules["lr"] == one_cycle(div=25, pct_start=0.99)
    assert (unfrozen.name, unfrozen.epochs, unfrozen.frozen) == ("unfrozen", 4, 0)
    assert unfrozen.peaks["lr"] == pytest.approx((1e-5, 1e-4, 1e-3))
    assert unfrozen.schedules["lr"] == one_cycle(div=5, pct_start=0.3)


def test_fine_tune_may_leave_the_frozen_phase_out():
    (only,) = plans.fine_tune_plan(groups_of(2), 1, freeze_epochs=0)
    assert (only.name, only.frozen) == ("unfrozen", 0)


def second_phase(group_count: int, epochs: int, **options: Any) -> tuple[str, int]:
    """Its name, and how many groups are frozen in it."""
    *_, last = plans.fine_tune_plan(groups_of(group_count), epochs, **options)
    return last.name, last.frozen


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, ("1 and above", 1)), (2, ("1 and above", 1)), (3, ("unfrozen", 0))],
)
def test_a_short_run_leaves_the_earlier_half_of_the_body_frozen(
    epochs: int, expected: tuple[str, int]
):
    assert second_phase(3, epochs) == expected


@pytest.mark.parametrize(("group_count", "frozen"), [(2, 0), (3, 1), (4, 1), (5, 2)])
def test_at_least_half_of_the_body_trains(group_count: int, frozen: int):
    assert second_phase(group_count, 1)[1] == frozen


@pytest.mark.parametrize("options", [{"lr_mult": 100.0}, {"layer_decay": 0.5}], ids=repr)
def test_who_gives_rates_for_early_layers_gets_all_of_them_trained(options: dict[str, float]):
    assert second_phase(3, 1, **options) == ("unfrozen", 0)


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("all", ("unfrozen", 0)),
        ("0", ("unfrozen", 0)),
        ("1", ("1 and above", 1)),
        ("2", ("2 and above", 2)),
        ("3", ("3", 3)),
    ],
)
@pytest.mark.parametrize("epochs", [1, 5])
def test_unfreeze_says_what_trains_after_the_head(
    epochs: int, unfreeze: str, expected: tuple[str, int]
):
    assert second_phase(4, epochs, unfreeze=unfreeze) == expected


def test_unfreeze_goes_with_rates_of_your_own():
    *_, last = plans.fine_tune_plan(groups_of(3), 1, unfreeze="1", lr_mult=10)
    assert last.frozen == 1
    assert last.peaks["lr"] == pytest.approx((1e-4, 1e-3 / 10**0.5, 1e-3))


def test_groups_that_stay_frozen_do_not_move_until_the_next_fit():
    learner = tiny_learner(3)
    first, second = (copy_of(learner.model[i].state_dict()) for i in (0, 1))
    learner.fine_tune(1, 1e-2)
    assert same_state(learner.model[0].state_dict(), first)
    assert not same_state(learner.model[1].state_dict(), second)
    learner.fit(1)
    assert not same_state(learner.model[0].state_dict(), first)


@pytest.mark.parametrize("stop", [9, 12, 16], ids=lambda step: f"step {step}")
def test_nothing_is_frozen_after_a_run_that_stopped_in_its_second_phase(stop: int):
    learner, whole = tiny_learner(3), tiny_learner(3)
    learner.fine_tune(2, callbacks=[StopAt(stop)])
    assert learner.layer_groups.frozen_count == 0
    learner.resume()
    whole.fine_tune(2)
    assert same_state(learner.model.state_dict(), whole.model.state_dict())


def test_a_phase_that_unfreezes_at_its_end_survives_json():
    *_, last = plans.fine_tune_plan(groups_of(3), 1)
    assert last.unfreezes_at_end
    assert Phase.from_dict(json.loads(json.dumps(last.to_dict()))) == last
    assert "unfreezes_at_end" not in phase().to_dict()


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: plans.fit_plan(groups, 1, 1e-3),
        lambda groups: plans.one_cycle_plan(groups, 1, 1e-3),
        lambda groups: plans.flat_cosine_plan(groups, 1, 1e-3),
        lambda groups: plans.restarts_plan(groups, 1, 1, 1e-3),
    ],
    ids=["fit", "one cycle", "flat cosine", "restarts"],
)
def test_other_fits_leave_frozen_what_is_frozen(make):
    groups = groups_of(3)
    groups.freeze_to(1)
    assert [p.frozen for p in make(groups)] == [1]


def test_restarts_grow_by_the_multiple():
    cycles = plans.restarts_plan(groups_of(2), 3, 2, 1e-3, cycle_mult=3)
    assert [p.epochs for p in cycles] == [2, 6, 18]


def test_an_optimizer_without_momentum_reports_none():
    learner = tiny_learner(2, data=tiny_data(4, 4), optimizer=torch.optim.Adagrad)
    learner.fit_one_cycle(1)
    assert [row.momentum for row in learner.history.steps] == [()]


def test_an_optimizer_may_get_its_momentum_from_a_later_phase():
    learner = tiny_learner(2, data=tiny_data(4, 4), optimizer=torch.optim.RMSprop)
    learner.fit(1)
    learner.fit_one_cycle(1)
    assert [row.momentum for row in learner.history.steps] == [(0.0, 0.0), (0.95, 0.95)]


# --- views


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (None, [7, 8, 9, 10, 11]),
        (1, [None] * 5),
        (2, [7, 8, 7, 8, 7]),
        (3, [7, 8, 9, 7, 8]),
        (5, [7, 8, 9, 10, 11]),
        (9, [7, 8, 9, 10, 11]),
    ],
)
def test_epochs_go_round_their_views(views: Any, expected: list[int | None]):
    five = phase(epochs=5, views=views)
    assert [five.view(epoch, first=7) for epoch in range(5)] == expected


@pytest.mark.parametrize("views", [0, -1, 1.5, "3"])
def test_views_are_a_positive_whole_number_or_none(views: Any):
    rule = f"views must be a whole number of at least 1, got {views!r}"
    with pytest.raises((TypeError, ValueError), match=rule):
        phase(views=views)


@pytest.mark.parametrize("views", [None, 1, 4])
def test_fine_tune_limits_the_views_of_its_frozen_phase_alone(views: int | None):
    frozen, unfrozen = plans.fine_tune_plan(groups_of(2), 1, freeze_views=views)
    assert (frozen.views, unfrozen.views) == (views, None)


def test_a_phase_that_was_written_without_views_has_new_ones_in_every_epoch():
    data = phase().to_dict()
    del data["views"]
    assert Phase.from_dict(data) == phase(views=None)


# --- values


def test_a_value_is_peak_times_schedule():
    values = phase(peaks={"lr": (0.1, 0.2)}, schedules={"lr": FlatCosine(0.0, 0.0)}).values(0.5)
    assert values == {"lr": pytest.approx((0.05, 0.1))}


def test_a_peak_without_a_schedule_is_constant():
    assert phase().values(0.7) == {"lr": (0.1, 0.2)}


def test_progress_runs_from_0_to_just_below_1_over_the_epochs_of_a_phase():
    def progress(t: float) -> float:
        return t

    plan = (phase(peaks={"lr": (1.0,)}, schedules={"lr": progress}),)
    rates = [values["lr"][0] for _, values in plan_values(plan, 4)]
    assert rates == [i / 8 for i in range(8)]


def test_plan_values_foretell_a_run():
    learner = tiny_learner(3, data=tiny_data(12, 4))
    plan = plans.fine_tune_plan(learner.layer_groups, 2)
    learner.fit_plan(plan)
    told = [(p.name, v["lr"], v["momentum"]) for p, v in plan_values(plan, 3)]
    assert told == [(row.phase, row.lr, row.momentum) for row in learner.history.steps]


def test_every_group_may_have_a_schedule_of_its_own():
    both = (delayed(0.5, FlatCosine(0.0, 0.0)), FlatCosine(0.0, 0.0))
    own = phase(schedules={"lr": both})
    assert own.values(0.25)["lr"] == pytest.approx((0.0, 0.2 * both[1](0.25)))
    assert own.values(0.75)["lr"] == pytest.approx((0.05, 0.2 * both[1](0.75)))
    assert own.largest() == {"lr": (0.1, 0.2)}
    assert Phase.from_dict(json.loads(json.dumps(own.to_dict()))) == own


def test_fit_takes_schedules_by_group_and_hyper_parameter():
    learner = tiny_learner(3)
    learner.fit(
        2,
        [1e-3, 1e-2, 1e-1],
        peaks={"weight_decay": {"2": 0.5, "*": 0.1}},
        schedules={
            "lr": {"2": one_cycle(), "*": delayed(0.5, one_cycle())},
            "eps": lambda progress: 1 + progress,
        },
    )
    half = len(learner.history.steps) // 2
    assert [row.lr[0] for row in learner.history.steps[:half]] == [0.0] * half
    assert learner.history.steps[half].lr == pytest.approx((4e-5, 4e-4, 1e-1 * one_cycle()(0.5)))
    values = [group.values for group in learner.layer_groups]
    assert [own["weight_decay"] for own in values] == [0.1, 0.1, 0.5]
    assert all(1.9e-5 < own["eps"] < 2e-5 for own in values)


def test_gradual_unfreezing_frees_one_group_more_in_each_phase():
    groups = groups_of(3)
    plan = plans.gradual_unfreeze_plan(groups, epochs_per_group=2, base_lr=1e-2, lr_mult=10)
    assert [(p.name, p.epochs, p.frozen) for p in plan] == [
        ("2", 2, 2),
        ("1 and above", 2, 1),
        ("all", 2, 0),
    ]
    assert plan[0].peaks["lr"][-1] == 1e-2
    for later in plan[1:]:
        assert later.peaks["lr"] == pytest.approx((5e-4, 5e-3 / 10**0.5, 5e-3))


def test_gradual_unfreezing_trains_the_groups_in_turn():
    learner = tiny_learner(3)
    learner.gradual_unfreeze()
    ran = [(row.phase, row.frozen) for row in learner.history.steps[:: len(learner.data.train)]]
    assert ran == [("2", 2), ("1 and above", 1), ("all", 0)]
    assert [group.frozen for group in learner.layer_groups] == [False] * 3


def test_a_run_with_your_own_schedule_goes_on_from_its_checkpoint(tmp_path: Path):
    def falling(progress: float) -> float:
        return 1 - progress

    class CtrlC(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            if (event.epoch, event.step) == (1, 3):
                signal.raise_signal(signal.SIGINT)

    options: dict = {"schedules": {"lr": falling}, "checkpoint": tmp_path / "run.pt"}
    whole, first, second = tiny_learner(3), tiny_learner(3), tiny_learner(3)
    whole.fit(2, 0.1, schedules={"lr": falling})
    with pytest.raises(KeyboardInterrupt):
        first.fit(2, 0.1, **options, callbacks=[CtrlC()])
    second.fit(2, 0.1, **options)
    assert len(second.history.steps) == len(whole.history.steps)
    assert same_state(whole.model.state_dict(), second.model.state_dict())


# --- plans as data

schedules = st.sampled_from(
    [Constant(0.9), one_cycle(), one_cycle_momentum(pct_start=0.3), FlatCosine(0.5)]
)
rates = st.lists(st.floats(1e-8, 1), min_size=1, max_size=4).map(tuple)
phases = st.builds(
    Phase,
    st.text(max_size=5),
    st.integers(1, 100),
    st.integers(0, 3),
    st.fixed_dictionaries({"lr": rates, "momentum": rates}),
    st.fixed_dictionaries({"lr": schedules}, optional={"momentum": schedules}),
    st.none() | st.integers(1, 9),
)


@given(phases)
@settings(max_examples=50, deadline=None)
def test_a_phase_survives_json(phase: Phase):
    assert Phase.from_dict(json.loads(json.dumps(phase.to_dict()))) == phase


def test_a_phase_with_your_own_schedule_can_not_be_read_back():
    data = phase(schedules={"lr": lambda t: 1 - t}).to_dict()
    with pytest.raises(ValueError, match="is your own function and can't be read from a file"):
        Phase.from_dict(data)


# --- errors


@pytest.mark.parametrize(
    ("schedule", "value"),
    [
        (lambda t: -1.0, "-1.0"),
        (lambda t: float("nan"), "nan"),
        (lambda t: "1", "'1'"),
    ],
)
def test_a_schedule_gives_numbers_that_are_not_negative(schedule: Any, value: str):
    with pytest.raises(ValueError, match=f"the schedule of lr gives {value} at progress"):
        phase(schedules={"lr": schedule})


@pytest.mark.parametrize("schedule", [0.5, OneCycle, None])
def test_a_schedule_is_a_function(schedule: Any):
    with pytest.raises(TypeError, match="a schedule is a function from progress"):
        phase(schedules={"lr": schedule})


def test_a_phase_of_numpy_numbers_is_plain():
    own = phase(
        epochs=np.int64(2),
        peaks={"lr": np.array([0.1, 0.2])},
        schedules={"lr": [delayed(np.float64(0.5), one_cycle()), lambda t: np.float32(1)]},
    )
    assert type(own.epochs) is int
    assert all(type(value) is float for value in own.values(0.7)["lr"])
    content = phase(schedules={"lr": delayed(np.float64(0.5), one_cycle())}).to_dict()
    assert type(content["schedules"]["lr"]["start"]) is float


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ((), ValueError, "plan has no phase"),
        (phase(), TypeError, "plan must be a tuple of phases"),
        ((phase(frozen=2),), ValueError, "phase 'p' freezes 2 of 2 groups"),
        ((phase(peaks={"momentum": (0.9, 0.9)}),), ValueError, "has no lr among its peaks"),
    ],
)
def test_a_plan_that_can_not_be_run_is_refused(plan: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        tiny_learner(2).fit_plan(plan)


@pytest.mark.parametrize("options", [{"base_lr": slice(1e-3)}, {"lr_mult": 0}])
def test_gradual_unfreezing_takes_one_rate_and_a_positive_multiple(options: dict):
    with pytest.raises(
        (TypeError, ValueError),
        match=r"base_lr is one number|lr_mult must be",
    ):
        plans.gradual_unfreeze_plan(groups_of(3), **options)


def test_schedules_are_as_many_as_groups():
    with pytest.raises(ValueError, match="lr has 3 schedules for 2 groups"):
        phase(schedules={"lr": (Constant(),) * 3})


def test_a_schedule_for_a_group_that_is_not_there_is_an_error():
    schedules = {"lr": {"hed": one_cycle(), "*": one_cycle()}}
    with pytest.raises(ValueError, match=r"'hed' \(schedule of lr\); there are 0, 1, 2"):
        plans.fit_plan(groups_of(3), 1, 0.1, schedules=schedules)


def test_the_peaks_of_the_rate_are_an_argument():
    with pytest.raises(ValueError, match="the peaks of lr are the argument lr"):
        plans.fit_plan(groups_of(3), 1, 0.1, peaks={"lr": 0.1})


def test_a_plan_for_other_groups_is_refused_before_anything_happens():
    learner = tiny_learner(3)
    with pytest.raises(ValueError, match=r"phase 'p' has 2 values of lr for 3 groups \(0, 1, 2\)"):
        learner.fit_plan((phase(),))
    with pytest.raises(ValueError, match="AdamW has no hyper-parameter 'speed'"):
        learner.fit_plan((phase(peaks={"lr": (0.1,) * 3, "speed": (1.0,) * 3}),))
    assert not learner.history.steps


def test_gradual_unfreezing_needs_two_groups():
    with pytest.raises(ValueError, match="one layer group only"):
        plans.gradual_unfreeze_plan(LayerGroups.from_model(tiny_model(2), lambda m: [[m]]))


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3"])
def test_epochs_are_a_positive_whole_number(epochs: Any):
    rule = f"epochs must be a whole number of at least 1, got {epochs!r}"
    with pytest.raises((TypeError, ValueError), match=rule):
        phase(epochs=epochs)


@pytest.mark.parametrize("method", ["fit", "fit_one_cycle", "fit_flat_cos", "fine_tune"])
def test_no_fit_takes_zero_epochs(method: str):
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got 0"):
        getattr(tiny_learner(2), method)(0)


@pytest.mark.parametrize("cycles", [0, -1, 1.5])
def test_cycles_are_a_positive_whole_number(cycles: Any):
    rule = f"cycles must be a whole number of at least 1, got {cycles}"
    with pytest.raises((TypeError, ValueError), match=rule):
        plans.restarts_plan(groups_of(2), cycles, 1, 1e-3)


def test_a_schedule_needs_a_peak():
    with pytest.raises(ValueError, match="schedules without a peak: momentum"):
        phase(schedules={"momentum": Constant()})


def test_fine_tune_needs_two_groups():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r"this model has one group only; pass split= .*fit_one_cy"
    ):
        plans.fine_tune_plan(LayerGroups.from_model(model, lambda m: [[m]]), 1)


def test_a_refused_fine_tune_changes_nothing():
    learner = tiny_learner(1)
    before = learner.model[0].weight.clone()
    with pytest.raises(ValueError, match="this model has one group only"):
        learner.fine_tune(1)
    assert torch.equal(learner.model[0].weight, before)
    assert learner.history.steps == []


@pytest.mark.parametrize(("epochs", "lr_mult"), [(1, 100), (2, 100), (3, 10), (5, 10)])
def test_fine_tune_takes_higher_rates_for_early_layers_in_longer_runs(epochs: int, lr_mult: float):
    groups = groups_of(3)
    plan = plans.fine_tune_plan(groups, epochs, unfreeze="all")
    assert plan == plans.fine_tune_plan(groups, epochs, lr_mult=lr_mult)
    assert plan[-1].peaks["lr"] == pytest.approx((1e-3 / lr_mult, 1e-3 / lr_mult**0.5, 1e-3))


@pytest.mark.parametrize("lr_mult", [0, -1.0])
def test_lr_mult_is_positive(lr_mult: float):
    with pytest.raises(ValueError, match=f"lr_mult must be a finite number above 0, got {lr_mult}"):
        plans.fine_tune_plan(groups_of(2), 1, lr_mult=lr_mult)


@pytest.mark.parametrize(
    ("unfreeze", "hint"), [("al", r"did you mean 'all'\?"), ("head", "there are all, 0, 1, 2")]
)
def test_unfreeze_names_a_group_that_there_is(unfreeze: str, hint: str):
    with pytest.raises(ValueError, match=f"unfreeze='{unfreeze}' is no layer group; {hint}"):
        plans.fine_tune_plan(groups_of(3), 1, unfreeze=unfreeze)


def test_unfreeze_is_a_name():
    with pytest.raises(TypeError, match="unfreeze must be"):
        plans.fine_tune_plan(groups_of(3), 1, unfreeze=1)


@pytest.mark.parametrize("freeze_epochs", [-1, 0.5])
def test_freeze_epochs_are_a_whole_number(freeze_epochs: Any):
    with pytest.raises((TypeError, ValueError), match=f"freeze_epochs .*, got {freeze_epochs}"):
        plans.fine_tune_plan(groups_of(2), 1, freeze_epochs=freeze_epochs)


@pytest.mark.parametrize("freeze_epochs", [0, 1])
@pytest.mark.parametrize("base_lr", [0.0, -1e-3, float("nan")])
def test_base_lr_is_positive(base_lr: float, freeze_epochs: int):
    with pytest.raises(ValueError, match=r"base_lr must be a finite number above 0"):
        plans.fine_tune_plan(groups_of(2), 1, base_lr=base_lr, freeze_epochs=freeze_epochs)


@pytest.mark.parametrize("make", [plans.fit_plan, plans.one_cycle_plan, plans.flat_cosine_plan])
@pytest.mark.parametrize(
    ("lr", "message"),
    [
        ([1e-3], r"got 1 learning rates for 3 groups \(0, 1, 2\)"),
        (slice(0, 1e-3), "lower rate of lr=slice.* above 0"),
        (-1e-3, r"must be positive and finite, got -0.001"),
    ],
    ids=["too few", "slice from 0", "negative"],
)
def test_rates_that_make_no_sense_are_an_error(make, lr: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make(groups_of(3), 1, lr)


def test_a_value_whose_default_is_negative_may_be_so_in_a_plan():
    learner = tiny_learner(2, optimizer=torch.optim.Adafactor)
    learner.fit(1, 1e-3, peaks={"beta2_decay": {"0": -0.7, "1": -0.9}})
    assert [group.values["beta2_decay"] for group in learner.layer_groups] == [-0.7, -0.9]


@pytest.mark.parametrize("name", ["weight_decay", "eps"])
def test_other_values_of_a_plan_may_not_be_negative(name: str):
    own = phase(peaks={"lr": (0.1, 0.2), name: (0.1, -5.0)})
    with pytest.raises(ValueError, match=f"{name} must be finite and at least 0"):
        tiny_learner(2).fit_plan((own,))


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_a_peak_without_values_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} needs one value per layer group, got none"):
        Phase("fit", 1, 0, {name: ()})
