"""The meter: it measures what happened, when it was asked, and changes nothing."""

import math
from functools import partial

import pytest
import torch
from support import same_state, tiny_learner
from torch import nn

from finetune import Callback, LayerGroups, Learner
from finetune.training.events import GroupUpdates, StepEnd
from finetune.training.update_meter import UpdateMeter


class Asking(Callback):
    def __init__(self, every: int) -> None:
        self.updates_every = every
        self.rows: list[GroupUpdates] = []
        self.order: list[tuple[type, int]] = []

    def on_step_end(self, event: StepEnd) -> None:
        self.order.append((StepEnd, event.step))

    def on_group_updates(self, event: GroupUpdates) -> None:
        self.rows.append(event)
        self.order.append((GroupUpdates, event.step))


def fitted(*callbacks: Callback, **options: object) -> Learner:
    learner = tiny_learner(3, callbacks=callbacks, **options)
    learner.fine_tune(2, base_lr=1e-2, unfreeze="all")
    return learner


def test_it_measures_every_nth_step_of_an_epoch_after_the_step_itself() -> None:
    asking = Asking(3)
    fitted(asking)
    first = [(StepEnd, 0), (GroupUpdates, 0), (StepEnd, 1), (StepEnd, 2), (StepEnd, 3)]
    assert asking.order[:6] == [*first, (GroupUpdates, 3)]
    assert [(row.epoch, row.step) for row in asking.rows if row.phase == "unfrozen"] == [
        (epoch, step) for epoch in range(2) for step in (0, 3, 6)
    ]


def test_each_callback_gets_the_steps_it_asked_for() -> None:
    often, seldom = Asking(2), Asking(5)
    fitted(often, seldom)
    assert {0, 2, 4, 5, 6} == {row.step for row in often.rows}


def test_nobody_asked_and_nothing_is_measured() -> None:
    silent = Asking(0)
    fitted(silent)
    assert silent.rows == []


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.1}, {"accumulate": 2}, {"precision": "bf16"}], ids=repr
)
def test_it_changes_no_number(options: dict) -> None:
    with_meter, without = fitted(Asking(1), **options), fitted(**options)
    assert same_state(with_meter.model.state_dict(), without.model.state_dict())
    assert with_meter.history.steps == without.history.steps


def test_frozen_groups_have_no_number() -> None:
    asking = Asking(1)
    fitted(asking)
    frozen = next(row for row in asking.rows if row.phase == "frozen")
    assert [math.isnan(value) for value in frozen.gradient] == [True, True, False]
    assert [math.isnan(value) for value in frozen.ratio] == [True, True, False]
    last = asking.rows[-1]
    assert all(value > 0 for value in (*last.gradient, *last.ratio))


def test_a_frozen_group_whose_norms_train_has_no_number_either() -> None:
    asking = Asking(1)
    fitted(asking, norm="train")
    assert [math.isnan(value) for value in asking.rows[0].ratio] == [True, True, False]


# --- by hand


def model_with_gradients() -> tuple[nn.Module, LayerGroups]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model(torch.ones(4, 3)).square().sum().backward()
    return model, LayerGroups.from_model(model, [1])


def norm(tensors: list[torch.Tensor]) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors]).norm().item()


def test_it_measures_the_gradient_before_clipping_and_the_relative_update() -> None:
    model, groups = model_with_gradients()
    gradients = [norm([p.grad for p in layer.parameters()]) for layer in model]
    before = [[p.detach().clone() for p in layer.parameters()] for layer in model]
    meter = UpdateMeter([Asking(1)])
    with meter.measuring(groups, 0, None):
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    ratios = [
        norm([p.detach() - w for p, w in zip(layer.parameters(), old, strict=True)]) / norm(old)
        for layer, old in zip(model, before, strict=True)
    ]
    taken = meter.take()
    assert taken is not None
    assert taken[0].tolist() == pytest.approx(gradients)
    assert taken[1].tolist() == pytest.approx(ratios)


def test_what_it_measured_is_taken_once() -> None:
    _, groups = model_with_gradients()
    meter = UpdateMeter([Asking(2)])
    with meter.measuring(groups, 2, None):
        pass
    assert meter.take() is not None
    assert meter.take() is None
    with meter.measuring(groups, 3, None):
        pass
    assert meter.take() is None


def test_gradients_are_those_without_the_scaler() -> None:
    model, groups = model_with_gradients()
    expected = [norm([p.grad for p in layer.parameters()]) for layer in model]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.zero_grad()
    scaler.scale(model(torch.ones(4, 3)).square().sum()).backward()
    meter = UpdateMeter([Asking(1)])
    with meter.measuring(groups, 0, scaler):
        scaler.step(torch.optim.SGD(model.parameters(), lr=0.1))
    scaler.update()
    taken = meter.take()
    assert taken is not None
    assert taken[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_parameter_without_a_gradient_counts_for_nothing() -> None:
    model, groups = model_with_gradients()
    model[0].bias.grad = None
    meter = UpdateMeter([Asking(1)])
    with meter.measuring(groups, 0, None), torch.no_grad():
        model[0].weight.mul_(1.5)
    taken = meter.take()
    assert taken is not None
    assert taken[1, 0].item() == pytest.approx(0.5)


def test_it_measures_any_optimizer() -> None:
    asking = Asking(1)
    fitted(asking, optimizer=partial(torch.optim.SGD, momentum=0.9))
    assert all(value > 0 for value in asking.rows[-1].ratio)
