"""ScaledUpdates: the update is scaled, not the gradient."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from support import same_state, tiny_learner
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune import ScaledUpdates


class Sign(Optimizer):
    """Has no rate for each group."""

    def __init__(self, params: Any, size: float = 0.1) -> None:
        super().__init__(params, {})
        self.size = size

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= self.size * parameter.grad.sign()


adam = partial(torch.optim.Adam, lr=0.1)


def moved(gradient: float, **options: Any) -> float:
    """How far one step takes a weight."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = ScaledUpdates([weight], **options)
    weight.grad = torch.full((1,), gradient)
    optimizer.step()
    return -weight.item()


def test_under_adam_a_factor_scales_the_update_while_on_the_gradient_it_cancels():
    whole = moved(1.0, optimizer=adam)
    assert moved(1.0, optimizer=adam, lr=0.01) == pytest.approx(0.01 * whole)
    assert moved(0.01, optimizer=adam) == pytest.approx(whole)


def test_every_group_has_its_own_factor():
    learner = tiny_learner(optimizer=partial(ScaledUpdates, optimizer=Sign), dropout=0.0)
    before = [learner.model[0][0].weight.clone(), learner.model[1].weight.clone()]
    weights: list[Tensor] = [learner.model[0][0].weight, learner.model[1].weight]
    learner.layer_groups.set_values("lr", [0.5, 1.0])
    learner.model(torch.randn(8, 4)).square().sum().backward()
    learner.optimizer.step()
    steps = [(w - b).abs().max().item() for w, b in zip(weights, before, strict=True)]
    assert steps == pytest.approx([0.05, 0.1])


def test_an_optimizer_without_a_rate_for_each_group_says_how():
    with pytest.raises(ValueError, match=r"Sign has no lr for each group.*ScaledUpdates"):
        tiny_learner(optimizer=Sign)


def test_parameters_without_a_gradient_stay():
    learner = tiny_learner(optimizer=partial(ScaledUpdates, optimizer=adam))
    learner.freeze()
    before = {n: v.clone() for n, v in learner.model[0].state_dict().items()}
    learner.fit(1, 1.0)
    assert same_state(before, learner.model[0].state_dict())


def test_the_inner_optimizers_settings_are_the_groups():
    learner = tiny_learner(optimizer=partial(ScaledUpdates, optimizer=adam))
    learner.layer_groups.set("eps", {"0": 0.5, "*": 0.25})
    learner.fit_one_cycle(1, 1.0)
    inner = learner.optimizer.torch_optimizers[0].inner
    assert [group["eps"] for group in inner.param_groups] == [0.5, 0.5, 0.25, 0.25]
    assert all(group["betas"][0] > 0.94 for group in inner.param_groups)


def test_a_run_that_is_saved_goes_on_bit_for_bit(tmp_path):
    options = {"optimizer": partial(ScaledUpdates, optimizer=adam)}
    whole, first, second = (tiny_learner(**options) for _ in range(3))
    whole.fit(1, [0.1, 1.0])
    whole.fit(1, [0.1, 1.0])
    first.fit(1, [0.1, 1.0])
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    second.fit(1, [0.1, 1.0])
    assert same_state(whole.model.state_dict(), second.model.state_dict())


def test_a_copy_of_a_learner_trains():
    learner = tiny_learner(optimizer=partial(ScaledUpdates, optimizer=adam))
    learner.fit(1, 1.0)
    copied = copy.deepcopy(learner)
    learner.fit(1, 1.0)
    copied.fit(1, 1.0)
    assert same_state(learner.model.state_dict(), copied.model.state_dict())
