"""The range test: the suggestions that people know, and no trace of it anywhere."""

import copy
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from support import (
    StopAt,
    golden_figures,
    same,
    same_state,
    tiny_data,
    tiny_learner,
    tiny_pairs,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune import DataLoaders, Learner
from finetune.lr_finder import LearningRateCurve, relative_factors, suggest
from finetune.models.layer_groups import LayerGroups

CURVES = golden_figures("lr_suggestions.json")["curves"]
RULES = ("valley", "slide", "minimum", "steep")


def suggestions(curve: dict) -> dict[str, float]:
    losses = [math.nan if loss is None else loss for loss in curve["losses"]]
    return suggest(curve["lrs"], losses, curve["num_it"])


CASES = [(curve, rule) for curve in CURVES for rule in RULES]
SAME = [case for case in CASES if (case[0]["name"], case[1]) != ("valley_wraps_around", "valley")]


@pytest.mark.parametrize(("curve", "rule"), SAME, ids=[f"{c['name']}-{r}" for c, r in SAME])
def test_suggestions_are_those_of_fastai(curve: dict, rule: str):
    assert suggestions(curve)[rule] == pytest.approx(curve["suggestions"][rule], rel=1e-6)


def test_valley_does_not_wrap_around_to_the_highest_rate():
    curve = next(curve for curve in CURVES if curve["name"] == "valley_wraps_around")
    valley = suggestions(curve)["valley"]
    assert valley != pytest.approx(curve["suggestions"]["valley"], rel=1e-6)
    lowest_loss = curve["lrs"][int(np.argmin(curve["losses"]))]
    assert valley <= max(lowest_loss, curve["lrs"][curve["num_it"] // 10]) * (1 + 1e-6)


def test_rates_of_a_range_test_are_those_of_fastai():
    curve = next(curve for curve in CURVES if curve["name"] == "real_lr_find")
    found = tiny_learner().lr_find(stop_factor=math.inf)
    assert found.lrs == pytest.approx(curve["lrs"], rel=1e-6)


def test_a_curve_of_too_few_numbers_is_an_error():
    lrs = [1e-7 * 1.2**i for i in range(40)]
    with pytest.raises(
        ValueError, match=r"longer finite after 12 of 100 steps; start lr_find lower"
    ):
        suggest(lrs, [1.0] * 12 + [math.nan] * 28, 100)


def test_a_curve_that_is_too_short_is_not_taken_for_one_that_diverged():
    lrs = [10.0**i for i in range(17)]
    with pytest.raises(ValueError, match=r"has 17 of 100 points, of which 2 are .* need 3 there"):
        suggest(lrs, [1.0] * 17, 100)
    suggest([*lrs, 1e17], [1.0] * 18, 100)


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


# --- groups


def factors_of(learner: Learner, **which: object) -> tuple[float, ...]:
    arguments = {"factors": None, "group": None, **which}
    return relative_factors(learner.layer_groups, **arguments)


def test_the_groups_of_a_new_learner_have_one_rate():
    assert tiny_learner(3).lr_find(steps=20).factors == {"0": 1.0, "1": 1.0, "2": 1.0}


def test_after_a_fit_the_groups_keep_the_ratios_of_its_rates():
    learner = tiny_learner(3)
    learner.fine_tune(1, lr_mult=100)
    assert factors_of(learner) == pytest.approx((0.01, 0.1, 1.0))


@pytest.mark.parametrize("given", [slice(0.01, 1), [1, 10, 100], {"2": 0.5, "1": 0.05, "0": 0.005}])
def test_factors_are_any_form_of_spread_with_the_largest_one(given: object):
    assert factors_of(tiny_learner(3), factors=given) == pytest.approx((0.01, 0.1, 1.0))


def test_the_largest_factor_is_that_of_a_group_that_trains():
    learner = tiny_learner(3)
    learner.freeze_to(1)
    assert factors_of(learner, factors=[100.0, 5.0, 1.0])[1:] == (1.0, 0.2)


def test_one_group_moves_alone():
    assert factors_of(tiny_learner(3), group="1") == (0.0, 1.0, 0.0)


def test_the_rates_of_the_test_have_these_factors(monkeypatch):
    learner, seen = tiny_learner(3), []
    monkeypatch.setattr(
        LayerGroups, "set_values", lambda self, name, values: seen.append((name, list(values)))
    )
    curve = learner.lr_find(steps=20, factors=slice(0.01, 1), stop_factor=math.inf)
    expected = [[lr * factor for factor in (0.01, 0.1, 1.0)] for lr in curve.lrs]
    assert [name for name, _ in seen] == ["lr"] * 20
    for (_, values), row in zip(seen, expected, strict=True):
        assert values == pytest.approx(row)


def test_an_unknown_group_is_an_error_with_a_hint():
    learner = tiny_learner(split={"0": "body", "1": "head"})
    with pytest.raises(ValueError, match=r"group='haed' is no layer group; did you mean 'head'\?"):
        learner.lr_find(group="haed")


def test_a_frozen_group_has_no_curve():
    learner = tiny_learner()
    learner.freeze()
    with pytest.raises(ValueError, match="layer group '0' is frozen"):
        learner.lr_find(group="0")


def test_factors_and_group_are_one_too_many():
    with pytest.raises(ValueError, match="factors= for all groups or group= for one, not both"):
        tiny_learner().lr_find(factors=slice(0.1, 1), group="1")


def test_rates_of_0_have_no_ratios():
    learner = tiny_learner()
    learner.layer_groups.set_values("lr", [0.0, 0.0])
    with pytest.raises(ValueError, match=r"learning rates were \(0.0, 0.0\); say their ratios"):
        learner.lr_find()


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("options", [{"accumulate": 3}, {"precision": "bf16"}], ids=repr)
def test_it_works_at_any_time(trained: bool, frozen: int, options: dict):
    learner = tiny_learner(3, **options)
    if trained:
        learner.fine_tune(1)
    learner.freeze_to(frozen)
    curve = learner.lr_find(steps=40)
    assert curve.lrs[0] <= curve.suggestion <= curve.lrs[-1]
    assert list(curve.factors) == ["0", "1", "2"][frozen:]


# --- its figure


def crowded() -> LearningRateCurve:
    lrs = [1e-7 * 10 ** (8 * i / 100) for i in range(100)]
    losses = [2.0 - i / 100 for i in range(99)] + [1e9]
    found = {"valley": 1e-3, "slide": 1e-3, "minimum": 1.1e-3, "steep": lrs[0]}
    return LearningRateCurve(tuple(lrs), tuple(losses), found, {"body": 0.1, "head": 1.0}, 100)


def test_the_figure_names_each_suggestion_with_its_value():
    (axes,) = crowded().plot().axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["valley\n0.001", "slide\n0.001", "minimum\n0.0011", "steep\n1e-07"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate of head", "loss, smoothed")
    assert axes.get_xscale() == "log"


def test_labels_of_the_same_rate_do_not_overlap():
    figure = crowded().plot()
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without arrows
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_part_that_the_rules_look_at_is_solid():
    curve = crowded()
    pale, solid = curve.plot().axes[0].lines[:2]
    assert (len(pale.get_xdata()), pale.get_alpha()) == (100, 0.5)
    assert list(solid.get_xdata()) == list(curve.lrs[10:-5])


def test_one_loss_that_exploded_does_not_press_down_the_rest():
    assert crowded().plot().axes[0].get_ylim()[1] < 3


# --- no trace


def traces(learner: Learner) -> dict:
    """Everything that a range test could leave behind."""
    modules = dict(learner.model.named_modules())
    return copy.deepcopy(
        {
            "model": learner.model.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "param groups": [
                {k: v for k, v in group.items() if k != "params"}
                for group in learner.optimizer.param_groups
            ],
            "gradients": [p.grad is None for p in learner.model.parameters()],
            "requires_grad": [p.requires_grad for p in learner.model.parameters()],
            "training": {name: module.training for name, module in modules.items()},
            "values": [dict(group.values) for group in learner.layer_groups],
            "peaks": [dict(group.peaks) for group in learner.layer_groups],
            "groups": [(group.norm, group.optimizer) for group in learner.layer_groups],
            "run": None if learner.trainer.run is None else repr(learner.trainer.run),
            "origin": learner.trainer.origin.weights(),
            "history": (learner.history.steps, learner.history.epochs),
            "torch": torch.get_rng_state(),
            "numpy": str(np.random.get_state()),
            "python": random.getstate(),
            "loader": learner.data.train.loader.generator.get_state(),
            "files": sorted(os.listdir()),
        }
    )


def learner_with_generator(**options: object) -> Learner:
    pairs = tiny_pairs()
    train = DataLoader(pairs, 4, shuffle=True, generator=torch.Generator().manual_seed(5))
    data = DataLoaders(train, DataLoader(pairs, 16), classes=["no", "yes"])
    return tiny_learner(groups=3, data=data, **options)


@pytest.mark.parametrize("which", [{}, {"group": "2"}, {"factors": slice(0.01, 1)}], ids=repr)
@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("end_lr", [10.0, 1e30], ids=["calm", "diverging"])
def test_it_leaves_no_trace(tmp_path: Path, monkeypatch, frozen: int, end_lr: float, which: dict):
    monkeypatch.chdir(tmp_path)
    learner = learner_with_generator(accumulate=2)
    learner.fit(1)
    learner.freeze_to(frozen)
    learner.model.train()
    learner.model[1].eval()
    before = traces(learner)
    learner.lr_find(end_lr=end_lr, **which).plot()
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
    late = curve.losses[10:]  # the rules do not look at what is before
    assert late[-1] > 4 * min(late)
    assert all(loss <= 4 * min(late) for loss in late[:-1])


class Scripted:
    """Loss by loss, whatever the model says."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * 0 + self.losses.pop(0)


def test_a_few_good_batches_of_a_trained_model_do_not_end_it():
    losses = [1e-6] * 5 + [1.0] * 95
    assert len(tiny_learner(loss=Scripted(losses)).lr_find().lrs) == 100


def test_an_early_explosion_leaves_enough_to_judge():
    losses = [1.0] * 11 + [1e6] * 89
    assert len(tiny_learner(loss=Scripted(losses)).lr_find().lrs) == 18


class Breaking:
    """Cross entropy for some calls, then NaN."""

    def __init__(self, good_calls: int) -> None:
        self.left = good_calls

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= 1
        factor = 1.0 if self.left >= 0 else math.nan
        return nn.functional.cross_entropy(outputs, targets) * factor


def test_a_loss_that_is_not_finite_before_a_curve_can_be_judged_is_an_error():
    with pytest.raises(ValueError, match="no longer finite after 12 of 100 steps; start lr_find"):
        tiny_learner(loss=Breaking(12)).lr_find()


def test_it_ends_when_the_loss_is_not_finite():
    curve = tiny_learner(loss=Breaking(40)).lr_find()
    assert len(curve.lrs) == 40
    assert all(map(math.isfinite, curve.losses))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_rates_must_rise_from_a_positive_one(low: float, high: float):
    with pytest.raises(ValueError, match=f"start_lr must be .* above 0 and below {high}"):
        tiny_learner().lr_find(start_lr=low, end_lr=high)


def test_a_curve_needs_some_steps():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 20, got 19"):
        tiny_learner().lr_find(steps=19)


def test_after_load_it_sees_what_it_saw_before(tmp_path):
    saved, loaded = tiny_learner(3), tiny_learner(3)
    saved.fine_tune(1, base_lr=1e-2, callbacks=[StopAt(11)])
    saved.save(tmp_path / "run.pt")
    loaded.load(tmp_path / "run.pt")
    before, after = saved.lr_find(steps=20), loaded.lr_find(steps=20)
    assert before.factors == after.factors != dict.fromkeys(saved.layer_groups.names, 1.0)
    assert before.losses == after.losses
