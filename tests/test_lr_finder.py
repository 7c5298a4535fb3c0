"""The range test: the suggestions that people know, and no trace of it anywhere."""

import copy
import math
import os
import random
from collections.abc import Iterator, Sequence
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
    tiny_model,
    tiny_pairs,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune import Batch, Callback, DataLoaders, ImageDataLoaders, Learner, distributed
from finetune.callbacks import work_bar
from finetune.callbacks.display import Bar, TextDisplay
from finetune.lr_finder import LearningRateCurve, relative_factors, suggest
from finetune.models.layer_groups import LayerGroups
from finetune.randomness import generator
from finetune.training.events import Precompute
from finetune.vision import vision_learner

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


# --- kept features


BACKBONE_CALLS: list[int] = []
"""How many examples there were in each call of a counting layer."""


class Counting(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        BACKBONE_CALLS.append(len(inputs))
        return super().forward(inputs)


class Unnumbered:
    """The batches of an epoch, whose examples have no numbers by which to keep features."""

    def __init__(self, count: int = 40) -> None:
        self.points, self.targets = tiny_pairs(count).tensors

    def __len__(self) -> int:
        return len(self.points) // 8

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.points), generator=generator(seed, "shuffle", epoch))
        for numbers in order.split(8)[start:]:
            yield Batch(self.points[numbers], self.targets[numbers], numbers)


class Numbered(Unnumbered):
    def order(self, seed: int, epoch: int) -> list[Tensor]:
        return [batch.indices for batch in self.epoch(seed, epoch)]

    def fetch(self, order: Sequence[Tensor]) -> Iterator[Batch]:
        for numbers in order:
            yield Batch(self.points[numbers], self.targets[numbers], numbers)


def learner_of(loader: Unnumbered, **options: object) -> Learner:
    """Two groups in front of the head, with BatchNorm and Dropout; no view is random."""
    model = tiny_model(3)
    model[0][0] = Counting(4, 4)
    # statistics with which batches and running means give different outputs
    model.train()(3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(5)))
    model.eval()
    data = DataLoaders(loader, None, classes=["no", "yes"])
    arguments: dict = {
        "loss": nn.functional.cross_entropy, "split": [1, 2], "progress": False,
        "device": "cpu", "precision": "fp32", **options,
    }  # fmt: skip
    return Learner(data, model, **arguments)


def images_in_steps(learner: Learner, **which: object) -> int:
    """How many images went through the first layer, without the few that a search looks at."""
    BACKBONE_CALLS.clear()
    learner.lr_find(**which)
    return sum(count for count in BACKBONE_CALLS if count > 3)


def test_each_image_goes_once_through_what_is_before_the_head():
    assert images_in_steps(learner_of(Numbered()), group="2") == 40


def test_each_image_goes_once_through_what_is_frozen():
    learner = learner_of(Numbered())
    learner.freeze()
    assert images_in_steps(learner) == 40


@pytest.mark.parametrize("which", [{}, {"group": "1"}], ids=repr)
def test_where_more_than_the_head_moves_all_runs_in_every_step(which: dict):
    assert images_in_steps(learner_of(Numbered()), stop_factor=math.inf, **which) == 100 * 8


def test_a_test_that_does_not_see_every_image_keeps_none():
    learner = learner_of(Numbered(count=168))
    assert images_in_steps(learner, group="2", steps=20, stop_factor=math.inf) == 20 * 8
    assert images_in_steps(learner, group="2", steps=21, stop_factor=math.inf) == 168


@pytest.mark.parametrize("norm", ["follow", "eval", "train"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"accumulate": 2}], ids=repr)
def test_kept_features_give_the_curve_of_the_whole_model(norm: str, options: dict):
    curves = []
    for loader in (Numbered(), Unnumbered()):
        learner = learner_of(loader, norm=norm, **options)
        curves.append(learner.lr_find(group="2"))
    kept, whole = curves
    assert kept.losses == pytest.approx(whole.losses, rel=1e-4)
    assert kept.suggestions == pytest.approx(whole.suggestions)


@pytest.mark.parametrize("loader", [Numbered, Unnumbered])
def test_one_group_at_the_end_moves_as_if_the_others_were_frozen(loader: type[Unnumbered]):
    named, frozen = learner_of(loader()), learner_of(loader())
    frozen.freeze()
    curve = named.lr_find(group="2")
    assert curve.losses == frozen.lr_find().losses
    assert curve.factors == {"0": 0.0, "1": 0.0, "2": 1.0}


def test_kept_features_leave_no_trace():
    learner, twin = learner_of(Numbered()), learner_of(Numbered())
    before = copy.deepcopy(learner.model.state_dict())
    learner.lr_find(group="2")
    assert same_state(before, learner.model.state_dict())
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    for trained in (learner, twin):
        trained.fine_tune(1)
    assert same_state(learner.model.state_dict(), twin.model.state_dict())


class HeardParts(Callback):
    """Which parts of the data went through the frozen layers."""

    def __init__(self) -> None:
        self.parts: set[str] = set()

    def on_precompute(self, event: Precompute) -> None:
        self.parts.add("validation" if event.view is None else "training")


def test_its_features_serve_what_comes_next(photos: Path):
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=6)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False, device="cpu")
    learner.lr_find(group="head", steps=20)
    heard = HeardParts()
    learner.probe(callbacks=[heard])
    assert heard.parts == {"validation"}


# --- its bar


def bars_of(monkeypatch: pytest.MonkeyPatch, *, progress: bool, rank: int = 0) -> list[str]:
    """What was shown during a test."""
    shown: list[str] = []

    class Shown(TextDisplay):
        interval = 0.0

        def __init__(self) -> None:
            pass

        def bars(self, bars: Sequence[Bar]) -> None:
            shown.extend(f"{bar.name} {bar.text.partition(',')[0]}" for bar in bars)

        def end(self) -> None:
            shown.append("end")

    monkeypatch.setattr(work_bar, "choose_display", Shown)
    learner = learner_of(Numbered(), progress=progress)
    if rank:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
    learner.lr_find(steps=20, stop_factor=math.inf)
    if not rank:
        learner.lr_find(group="2", steps=20, stop_factor=math.inf)
    return shown


def test_a_bar_shows_the_images_and_the_steps(monkeypatch):
    steps = [f"lr_find {number}/20 steps" for number in range(1, 21)]
    images = ["lr_find, features 32/40 images", "lr_find, features 40/40 images"]
    assert bars_of(monkeypatch, progress=True) == [*steps, "end", *images, *steps, "end"]


@pytest.mark.parametrize(("progress", "rank"), [(False, 0), (True, 1)])
def test_a_quiet_learner_and_a_second_process_show_none(monkeypatch, progress: bool, rank: int):
    assert bars_of(monkeypatch, progress=progress, rank=rank) == []


def test_the_bar_goes_after_an_error(monkeypatch):
    learner = learner_of(Numbered(), progress=True, loss=failing_loss)
    ends = []
    monkeypatch.setattr(TextDisplay, "end", lambda display: ends.append(display))
    with pytest.raises(RuntimeError, match="no loss today"):
        learner.lr_find()
    assert len(ends) == 1


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


def test_a_notebook_draws_the_curve():
    assert crowded()._repr_png_().startswith(b"\x89PNG")


def test_as_text_it_is_one_short_line():
    expected = "LearningRateCurve(suggestion 0.001, 100 of 100 steps from 1e-07 to 8.3)"
    assert repr(crowded()) == expected


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
