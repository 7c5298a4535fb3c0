"""A loss with parameters trains with the head, in a group of its own."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_data, tiny_learner, tiny_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune import Learner
from finetune.models.loss_group import placed


class Scaled(nn.Module):
    """Cross-entropy of scaled outputs; the scales train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs * self.scale + self.bias, targets)


def test_it_trains_as_if_it_were_a_part_of_the_head():
    loss = Scaled()
    learner = tiny_learner(2, loss=loss, norm="eval", dropout=0.0, clip_norm=0.5)
    learner.fine_tune(1, base_lr=1e-2)

    class WithScale(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.scaled = Scaled()

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * self.scaled.scale + self.scaled.bias

    model = tiny_model(2, dropout=0.0)
    head = WithScale()
    head.load_state_dict(model[1].state_dict(), strict=False)
    model[1] = head
    whole = Learner(
        tiny_data(),
        model,
        loss=cross_entropy,
        split=[1],
        norm="eval",
        clip_norm=0.5,
        device="cpu",
        progress=False,
    )
    whole.fine_tune(1, base_lr=1e-2)
    assert not torch.equal(loss.scale.detach(), torch.ones(2))
    assert torch.allclose(loss.scale, head.scaled.scale, atol=1e-6)
    assert torch.allclose(loss.bias, head.scaled.bias, atol=1e-6)


@pytest.mark.parametrize("wrap", [functools.partial, lambda loss: loss.forward])
def test_it_is_found_behind_a_partial_and_a_method(wrap: Any):
    loss = Scaled()
    learner = tiny_learner(2, loss=wrap(loss))
    learner.fit_one_cycle(1, 1e-2)
    assert not torch.equal(loss.scale.detach(), torch.ones(2))


def test_it_is_in_the_table_with_the_rates_of_the_head_and_no_group_to_say_a_rate_for():
    learner = tiny_learner(2, loss=Scaled())
    learner.fit_one_cycle(1, [1e-3, 1e-2])
    last = str(learner.layer_groups).splitlines()[-2].split()
    assert last[0] == "loss"
    assert "0.01" in last
    assert len(learner.layer_groups) == 2


def test_a_loss_without_parameters_has_no_group():
    assert tiny_learner(2, loss=nn.CrossEntropyLoss()).layer_groups.loss_group is None


def test_a_loss_that_is_a_part_of_the_model_is_trained_once():
    model = tiny_model(2)
    model[1].scaled = Scaled()
    learner = Learner(tiny_data(), model, loss=model[1].scaled, device="cpu", progress=False)
    learner.fit_one_cycle(1, 1e-2)
    assert learner.layer_groups.loss_group is None
    assert not torch.equal(model[1].scaled.scale.detach(), torch.ones(2))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_that_is_saved_and_resumed_ends_with_the_same_loss(tmp_path: Path, ema: float | None):
    whole_loss, resumed_loss = Scaled(), Scaled()
    whole = tiny_learner(2, loss=whole_loss, ema=ema)
    whole.fit_one_cycle(2, 1e-2)
    half = tiny_learner(2, loss=Scaled(), ema=ema)
    half.fit_one_cycle(2, 1e-2, callbacks=[StopAt(5)])
    half.save(tmp_path / "half.ckpt")
    resumed = tiny_learner(2, loss=resumed_loss, ema=ema)
    resumed.load(tmp_path / "half.ckpt")
    resumed.resume()
    assert same_state(whole_loss.state_dict(), resumed_loss.state_dict())
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())


def test_the_rate_finder_leaves_it_alone():
    loss = Scaled()
    learner = tiny_learner(2, loss=loss)
    before = copy_of(loss.state_dict())
    learner.lr_find(steps=20)
    assert same_state(loss.state_dict(), before)


def test_its_state_is_kept_when_the_head_is_replaced():
    learner = tiny_learner(2, loss=Scaled())
    learner.fit_one_cycle(1, 1e-2)
    before = learner.optimizer.state_dict()["loss.scale"]["exp_avg"]
    learner.model[1] = nn.Linear(4, 2)
    assert torch.equal(learner.optimizer.state_dict()["loss.scale"]["exp_avg"], before)


def test_a_new_parameter_of_the_loss_trains():
    loss = Scaled()
    learner = tiny_learner(2, loss=loss)
    loss.scale = nn.Parameter(torch.ones(2))
    learner.fit_one_cycle(1, 1e-2)
    assert not torch.equal(loss.scale.detach(), torch.ones(2))


# --- where a loss is, and in which mode


def test_what_a_partial_holds_goes_to_the_device():
    module = nn.CrossEntropyLoss(weight=torch.ones(2))
    loss = functools.partial(cross_entropy, weight=torch.ones(2), reduction="mean")
    meta = torch.device("meta")
    moved = placed(loss, meta)
    assert moved.keywords["weight"].device == meta
    assert moved.keywords["reduction"] == "mean"
    assert placed(functools.partial(max, torch.ones(2), key=module), meta).args[0].device == meta
    assert module.weight.device == meta


def test_a_partial_of_weights_trains_as_the_module_does():
    weight = torch.tensor([1.0, 5.0])
    by_partial = tiny_learner(2, loss=functools.partial(cross_entropy, weight=weight))
    by_module = tiny_learner(2, loss=nn.CrossEntropyLoss(weight=weight))
    for learner in (by_partial, by_module):
        learner.fit(1)
    assert same_state(by_partial.model.state_dict(), by_module.model.state_dict())
