"""The range test: the suggestions that people know, and no trace of it anywhere."""

import copy
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from support import PARITY, needs_parity, same_state, tiny_data, tiny_learner, tiny_pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune import DataLoaders, Learner
from finetune.lr_finder import suggest

FILE = PARITY / "lr_suggestions.json"
CURVES = json.loads(FILE.read_text())["curves"] if FILE.is_file() else []
RULES = ("valley", "slide", "minimum", "steep")


def suggestions(curve: dict) -> dict[str, float]:
    losses = [math.nan if loss is None else loss for loss in curve["losses"]]
    return suggest(curve["lrs"], losses, curve["num_it"])


CASES = [(curve, rule) for curve in CURVES for rule in RULES]
SAME = [case for case in CASES if (case[0]["name"], case[1]) != ("valley_wraps_around", "valley")]


@needs_parity
@pytest.mark.parametrize(("curve", "rule"), SAME, ids=[f"{c['name']}-{r}" for c, r in SAME])
def test_suggestions_are_those_of_fastai(curve: dict, rule: str):
    assert suggestions(curve)[rule] == pytest.approx(curve["suggestions"][rule], rel=1e-6)


@needs_parity
def test_valley_does_not_wrap_around_to_the_highest_rate():
    curve = next(curve for curve in CURVES if curve["name"] == "valley_wraps_around")
    valley = suggestions(curve)["valley"]
    assert valley != pytest.approx(curve["suggestions"]["valley"], rel=1e-6)
    lowest_loss = curve["lrs"][int(np.argmin(curve["losses"]))]
    assert valley <= max(lowest_loss, curve["lrs"][curve["num_it"] // 10]) * (1 + 1e-6)


@needs_parity
def test_rates_of_a_range_test_are_those_of_fastai():
    curve = next(curve for curve in CURVES if curve["name"] == "real_lr_find")
    found = tiny_learner().lr_find(stop_factor=math.inf)
    assert found.lrs == pytest.approx(curve["lrs"], rel=1e-6)


def test_a_curve_of_too_few_numbers_is_an_error():
    lrs = [1e-7 * 1.2**i for i in range(40)]
    with pytest.raises(ValueError, match=r"after 40 of 100 steps; start lr_find lower"):
        suggest(lrs, [1.0] * 12 + [math.nan] * 28, 100)


def test_it_finds_a_rate_that_trains():
    curve = tiny_learner().lr_find()
    assert curve.suggestion == curve.suggestions["valley"]
    assert set(curve.suggestions) == set(RULES)
    assert curve.lrs[0] < curve.suggestion < curve.lrs[-1]
    learner = tiny_learner()
    learner.fit(5, curve.suggestion)
    assert learner.history.epochs[-1].train_loss < learner.history.epochs[0].train_loss


def test_the_first_loss_is_that_of_the_untrained_model():
    data = DataLoaders(DataLoader(tiny_pairs(), 32))
    learner = tiny_learner(data=data, dropout=0.0, precision="fp32")
    inputs, targets = tiny_pairs().tensors
    model = copy.deepcopy(learner.model).train()
    expected = nn.functional.cross_entropy(model(inputs), targets).item()
    assert learner.lr_find(steps=20).losses[0] == pytest.approx(expected, rel=1e-5)


def test_the_same_test_twice_gives_the_same_curve():
    learner = tiny_learner()
    assert learner.lr_find() == learner.lr_find()


# --- no trace


def traces(learner: Learner) -> dict:
    """Everything that a range test could leave behind."""
    modules = dict(learner.model.named_modules())
    return copy.deepcopy(
        {
            "model": learner.model.state_dict(),
            "optimizer": learner.trainer.setup.optimizer.state_dict(),
            "param groups": [
                {k: v for k, v in group.items() if k != "params"}
                for group in learner.trainer.setup.optimizer.param_groups
            ],
            "gradients": [p.grad is None for p in learner.model.parameters()],
            "requires_grad": [p.requires_grad for p in learner.model.parameters()],
            "training": {name: module.training for name, module in modules.items()},
            "values": [dict(group.values) for group in learner.layer_groups],
            "history": (learner.history.steps, learner.history.epochs),
            "torch": torch.get_rng_state(),
            "numpy": str(np.random.get_state()),
            "python": random.getstate(),
            "loader": learner.data.train.loader.generator.get_state(),
            "files": sorted(os.listdir()),
        }
    )


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def learner_with_generator(**options: object) -> Learner:
    pairs = tiny_pairs()
    train = DataLoader(pairs, 4, shuffle=True, generator=torch.Generator().manual_seed(5))
    data = DataLoaders(train, DataLoader(pairs, 16), classes=["no", "yes"])
    return tiny_learner(groups=3, data=data, **options)


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("end_lr", [10.0, 1e30], ids=["calm", "diverging"])
def test_it_leaves_no_trace(tmp_path: Path, monkeypatch, frozen: int, end_lr: float):
    monkeypatch.chdir(tmp_path)
    learner = learner_with_generator(accumulate=2)
    learner.fit(1)
    learner.freeze_to(frozen)
    learner.model.train()
    learner.model[1].eval()
    before = traces(learner)
    learner.lr_find(end_lr=end_lr)
    after = traces(learner)
    assert {name for name in before if not same(before[name], after[name])} == set()


def test_it_leaves_no_trace_after_an_error(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner = learner_with_generator(loss=failing_loss)
    before = traces(learner)
    with pytest.raises(RuntimeError, match="no loss today"):
        learner.lr_find()
    after = traces(learner)
    assert {name for name in before if not same(before[name], after[name])} == set()


def failing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("no loss today")


@pytest.mark.parametrize("when", ["before", "between"])
def test_training_after_it_is_as_if_it_had_not_been(when: str):
    with_test, without = learner_with_generator(), learner_with_generator()
    for learner in (with_test, without):
        if learner is with_test and when == "before":
            learner.lr_find()
        learner.fit(1)
        if learner is with_test and when == "between":
            learner.lr_find()
        learner.fine_tune(1)
    assert same_state(with_test.model.state_dict(), without.model.state_dict())
    assert with_test.history.steps == without.history.steps


# --- ends and errors


def test_a_data_set_shorter_than_the_test_is_gone_through_again():
    curve = tiny_learner(data=tiny_data(count=8)).lr_find(steps=50, stop_factor=math.inf)
    assert len(curve.lrs) == len(curve.losses) == 50


def test_it_ends_when_the_loss_explodes():
    curve = tiny_learner().lr_find(end_lr=1e4)
    assert len(curve.lrs) < 100
    assert curve.losses[-1] > 4 * min(curve.losses)
    assert all(loss <= 4 * min(curve.losses) for loss in curve.losses[:-1])


class Breaking:
    """Cross entropy for some calls, then no number."""

    def __init__(self, good_calls: int) -> None:
        self.left = good_calls

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        factor = 1.0 if self.left >= 0 else math.nan
        return nn.functional.cross_entropy(outputs, targets) * factor


def test_it_ends_when_the_loss_is_no_number():
    curve = tiny_learner(loss=Breaking(40)).lr_find()
    assert len(curve.lrs) == 40
    assert all(map(math.isfinite, curve.losses))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_rates_must_rise_from_a_positive_one(low: float, high: float):
    with pytest.raises(ValueError, match=f"0 < start_lr < end_lr, got {low} and {high}"):
        tiny_learner().lr_find(start_lr=low, end_lr=high)


def test_a_curve_needs_some_steps():
    with pytest.raises(ValueError, match="at least 20 steps to judge a curve, got 19"):
        tiny_learner().lr_find(steps=19)
