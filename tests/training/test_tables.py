"""Plans and histories as tables."""

import pytest
from support import StopAt, tiny_learner

from finetune.optim.schedules import delayed, one_cycle
from finetune.training import tables
from finetune.training.events import EpochEnd, StepEnd
from finetune.training.plan import fine_tune_plan, fit_plan


def step(phase: str, epoch: int, number: int, epoch_number: int) -> StepEnd:
    return StepEnd(phase, epoch, number, 1.0, (0.1,), (), epoch_number=epoch_number)


def test_the_table_of_a_plan_is_what_the_fit_does() -> None:
    learner = tiny_learner(3)
    plan = fine_tune_plan(learner.layer_groups, 2)
    spans, rates, momenta = tables.plan_table(plan, len(learner.data.train))
    learner.fit_plan(plan)
    assert rates == [row.lr for row in learner.history.steps]
    assert momenta == [row.momentum for row in learner.history.steps]
    assert spans == tables.step_spans(learner.history.steps, 8)
    assert [(span.name, span.frozen, span.start, span.end) for span in spans] == [
        ("frozen", 2, 0, 1), ("1 and above", 1, 1, 3)
    ]  # fmt: skip


def test_a_long_plan_is_thinned_out() -> None:
    plan = fit_plan(tiny_learner().layer_groups, 30, 1e-3)
    (span,), rates, _ = tables.plan_table(plan, 12_345)
    assert len(rates) == span.last <= tables.MOST_STEPS + 1
    assert span.epochs[0] == 0
    assert span.epochs[-1] == pytest.approx(30 - 1 / 12_345)


def test_rates_of_a_delayed_group_begin_at_0() -> None:
    groups = tiny_learner().layer_groups
    schedules = {"lr": {"1": one_cycle(), "*": delayed(0.5, one_cycle())}}
    _, rates, _ = tables.plan_table(fit_plan(groups, 1, 1e-3, schedules=schedules), 10)
    assert [row[0] > 0 for row in rates] == [False] * 5 + [True] * 5


def test_without_a_momentum_there_is_none() -> None:
    plan = fit_plan(tiny_learner().layer_groups, 1, 1e-3, momentum=None)
    assert tables.plan_table(plan, 4)[2] == []


def test_before_the_first_fit_there_are_no_spans() -> None:
    with pytest.raises(ValueError, match="nothing to plot before the first fit"):
        tables.step_spans([], 4)


def test_every_epoch_has_its_validation_at_its_end() -> None:
    positions = [("a", 0, 0), ("a", 0, 0), ("a", 1, 1), ("a", 1, 1), ("b", 0, 2)]
    steps = [
        step(phase, epoch, i % 2, number) for i, (phase, epoch, number) in enumerate(positions)
    ]
    epochs = [EpochEnd("a", i, 1.0, {"loss": float(i)}, epoch_number=i) for i in range(2)]
    epochs.append(EpochEnd("b", 0, 1.0, {"loss": 7.0}, epoch_number=2))
    points = tables.valid_points(tables.step_spans(steps, 2), steps, epochs)
    assert points == [(1, {"loss": 0.0}), (2, {"loss": 1.0}), (3, {"loss": 7.0})]


def test_an_epoch_that_was_interrupted_has_no_validation() -> None:
    steps = [step("a", 0, 0, 0), step("a", 0, 0, 1), step("a", 0, 1, 1)]
    epochs = [EpochEnd("a", 0, 1.5, {"loss": 3.0}, epoch_number=1)]
    points = tables.valid_points(tables.step_spans(steps, 2), steps, epochs)
    assert points == [(2, {"loss": 3.0})]


def test_an_epoch_that_ends_after_a_resume_is_found_among_others_with_the_same_losses() -> None:
    """All losses are 0, as of a model that has learned by heart."""
    learner = tiny_learner(loss=lambda outputs, targets: outputs.sum() * 0)
    learner.fit(1)
    for _ in range(2):  # one is given up, the next one goes on
        learner.fit(1, callbacks=[StopAt(3)])
    learner.resume()
    history = learner.history
    spans = tables.step_spans(history.steps, 8)
    points = tables.valid_points(spans, history.steps, history.epochs)
    assert [end for end, _ in points] == [1, 3]
    assert [row.epoch_number for row in history.epochs] == [0, 2]


def test_rows_of_older_files_are_without_points() -> None:
    learner = tiny_learner()
    learner.fit(1)
    state = learner.history.state_dict()
    del state["steps"]["epoch_number"], state["epochs"][0]["epoch_number"]
    learner.history.load_state_dict(state)
    learner.fit(1)
    steps, epochs = learner.history.steps, learner.history.epochs
    points = tables.valid_points(tables.step_spans(steps, 8), steps, epochs)
    assert [end for end, _ in points] == [2]


def test_without_validation_there_are_no_points() -> None:
    steps = [step("a", 0, 0, 0)]
    epochs = [EpochEnd("a", 0, 1.0, epoch_number=0)]
    assert tables.valid_points(tables.step_spans(steps, 1), steps, epochs) == []
