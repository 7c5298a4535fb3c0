"""One value per layer group, in every way of saying it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_learner, tiny_model
from torch import nn

from finetune import LayerDecay, LayerGroups, Learner, one_cycle
from finetune.models.group_values import per_group

GROUPS = {
    "stem": ["backbone.conv.weight", "backbone.norm.weight", "backbone.norm.bias"],
    "layer1": ["backbone.layer1.0.weight", "backbone.layer1.1.weight"],
    "layer10": ["backbone.layer10.0.weight"],
    "head": ["head.weight", "head.bias"],
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (3, (3, 3, 3, 3)),
        ([1, 2, 3, 4], (1, 2, 3, 4)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ({"*": 1, "head": 2}, (1, 1, 1, 2)),
        ({"backbone": 1, "head": 2}, (1, 1, 1, 2)),
        ({"backbone": 1, "layer1": 3, "head": 2}, (1, 3, 1, 2)),
        ({"backbone": 1, "backbone.layer1": 3, "*": 2}, (1, 3, 1, 2)),
        ({"backbone": {"layer1": 3, "*": 1}, "head": 2}, (1, 3, 1, 2)),
        ("text", ("text",) * 4),
    ],
)
def test_a_value_reaches_the_groups_it_is_said_for(values: Any, expected: tuple):
    assert per_group(GROUPS, values, "value") == expected


def test_a_group_named_after_a_module_is_where_that_module_is():
    groups = {"stem": ["net.cls"], "blocks.1": ["net.blocks.1.w"], "blocks.11": [
        "net.blocks.11.w", "net.norm.w"], "head": ["head.w"]}  # fmt: skip
    values = {"net": {"blocks": 1, "*": 2}, "head": 3}
    assert per_group(groups, values, "value") == (2, 1, 1, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], "got 2 rates for 4 groups (stem, layer1, layer10, head)"),
        ({"head": 1}, "layer group 'stem' has no rate; name it, or add '*' for the rest"),
        ({"*": 1, "hed": 2}, "'hed' (rate); did you mean 'head'"),
        ({"*": 1, "backbone": {"layer2": 2}}, "did you mean 'backbone.layer"),
        ({"*": 1, "backbone.conv": 2}, "'backbone.conv' is a part of layer group 'stem' only"),
        ({"*": 1, "backbone.layer1.0": 2}, "is a part of layer group 'layer1' only"),
        ({"*": 1, "layer1": 3, "backbone.layer1.0": 2}, "is a part of layer group 'layer1' only"),
    ],
)
def test_what_reaches_no_group_or_half_of_one_is_an_error(values: Any, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        per_group(GROUPS, values, "rate")


# --- learning rates


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (LayerDecay(0.1, 0.5), (0.025, 0.05, 0.1)),
        ({"2": 0.1, "*": 0.01}, (0.01, 0.01, 0.1)),
        (np.array([0.1, 0.2, 0.3]), (0.1, 0.2, 0.3)),
        (torch.tensor([0.5, 0.25, 1.0]), (0.5, 0.25, 1.0)),
        (np.array(0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_rates_are_spread_over_the_groups(lr: Any, expected: tuple[float, ...]):
    rates = LayerGroups.from_model(tiny_model(3), [1, 2]).spread(lr)
    assert rates == pytest.approx(expected)
    assert all(type(rate) is float for rate in rates)


def test_the_head_has_the_full_rate_of_a_layer_decay_and_the_group_below_it_one_factor():
    learner = tiny_learner(groups=4)
    learner.fit(1, LayerDecay(1e-2, 0.1))
    assert learner.history.steps[0].lr == pytest.approx((1e-5, 1e-4, 1e-3, 1e-2))


@pytest.mark.parametrize("factor", [0, -0.5, 1.5])
def test_a_layer_decay_makes_no_group_faster(factor: float):
    with pytest.raises(ValueError, match=r"factor must be .* above 0 and at most 1"):
        LayerDecay(1e-3, factor)


@pytest.mark.parametrize("lr", [{"2": 0.0, "*": 0.1}, {"*": float("nan")}])
def test_rates_must_be_positive(lr: Any):
    with pytest.raises(ValueError, match="positive and finite"):
        LayerGroups.from_model(tiny_model(3), [1, 2]).spread(lr)


# --- hyper-parameters of the groups


def learner_of(**options: Any) -> Learner:
    return tiny_learner(groups=3, **options)


def test_a_hyper_parameter_is_set_for_each_group():
    learner = learner_of()
    learner.layer_groups.set("eps", {"2": 1e-3, "*": 1e-6})
    learner.layer_groups.set("beta2", 0.9)
    learner.fit(1)
    rows = {group["params"][0]: group for group in learner.optimizer.param_groups}
    assert rows[learner.model[2].weight]["eps"] == 1e-3
    assert rows[learner.model[0][0].weight]["eps"] == 1e-6
    assert {row["betas"] for row in rows.values()} == {(0.9, 0.9)}


def test_weight_decay_may_be_given_by_group():
    learner = learner_of(weight_decay={"2": 0.5, "*": 0.0})
    assert [group.values["weight_decay"] for group in learner.layer_groups] == [0.0, 0.0, 0.5]


def test_changing_values_between_fits_keeps_the_optimizer_state():
    learner = learner_of()
    learner.fit(1)
    before = learner.optimizer.state_dict()["2.weight"]["exp_avg"].clone()
    learner.layer_groups.set("weight_decay", [0.1, 0.2, 0.3])
    assert torch.equal(learner.optimizer.state_dict()["2.weight"]["exp_avg"], before)


def test_an_optimizer_without_it_refuses_a_hyper_parameter():
    learner = learner_of(optimizer=torch.optim.SGD)
    message = r"SGD has no hyper-parameter 'moment'; did you mean 'momentum'\?"
    with pytest.raises(ValueError, match=message):
        learner.layer_groups.set("moment", 0.1)
    with pytest.raises(ValueError, match="SGD has no hyper-parameter 'beta2'"):
        learner.fit(1, peaks={"beta2": 0.9})


def test_a_negative_value_is_refused():
    with pytest.raises(ValueError, match=r"eps must be finite and at least 0, got -1"):
        learner_of().layer_groups.set("eps", -1)


def test_the_table_shows_the_peaks_and_what_differs():
    learner = learner_of(weight_decay={"2": 0.5, "*": 0.0})
    learner.layer_groups.set("eps", {"2": 0.125, "*": 0.25})
    learner.fit_one_cycle(1, [1e-3, 1e-2, 1e-1])
    rows = [line.split() for line in str(learner.layer_groups).splitlines()]
    assert rows[0][-4:] == ["rate", "weight", "decay", "eps"]
    assert rows[2][-3:] == ["0.001", "0", "0.25"]
    assert rows[4][-3:] == ["0.1", "0.5", "0.125"]
    assert rows[5] == ["all", "groups:", "AdamW,", "momentum", "0.95"]


def test_a_notebook_gets_the_table_as_html():
    html = LayerGroups.from_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))._repr_html_()
    assert html.count("<tr>") == 4  # the last is a note
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells[:4] == ["backbone", "0", "15", "follow"]


# --- what a plan says holds for that plan


def test_a_value_that_a_plan_leaves_out_is_the_base_again():
    learner = learner_of()
    falling = {"weight_decay": one_cycle()}
    for _ in range(3):
        learner.fit(1, 1e-3, schedules=falling)
        assert learner.trainer.run.plan[0].peaks["weight_decay"] == (0.01,) * 3
    learner.fit(1, 1e-3, peaks={"weight_decay": 0.3})
    learner.fine_tune(1)
    assert [group.values["weight_decay"] for group in learner.layer_groups] == [0.01] * 3


def test_a_value_that_is_set_holds_in_every_fit(tmp_path: Path):
    learner = learner_of(optimizer=torch.optim.SGD)
    resumed = learner_of(optimizer=torch.optim.SGD)
    learner.layer_groups.set("momentum", 0.95)
    learner.fit(1, 1e-3)
    assert learner.history.steps[-1].momentum == (0.95,) * 3
    learner.save(tmp_path / "run.pt")
    resumed.load(tmp_path / "run.pt")
    resumed.fit(1, 1e-3)
    assert resumed.history.steps[-1].momentum == (0.95,) * 3


def test_the_rate_is_an_argument_of_the_fits():
    with pytest.raises(ValueError, match="every fit has its own learning rates"):
        learner_of().layer_groups.set("lr", 0.1)


def test_a_value_whose_default_is_negative_may_be_so():
    learner = learner_of(optimizer=torch.optim.Adafactor)
    learner.layer_groups.set("beta2_decay", -0.7)
    assert [group.values["beta2_decay"] for group in learner.layer_groups] == [-0.7] * 3


def test_setting_one_value_keeps_the_peaks_of_the_others():
    learner = learner_of()
    learner.fit_one_cycle(1, [1e-3, 1e-2, 1e-1])
    learner.layer_groups.set("weight_decay", 0.25)
    lines = str(learner.layer_groups).splitlines()
    assert lines[2].split()[-1] == "0.001"
    assert lines[-1].endswith("momentum 0.95, weight decay 0.25")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("beta2", 7.0, "beta2 must not be above 1, got 7.0"),
        ("eps", float("inf"), "eps must be finite and at least 0, got inf"),
        ("eps", "0.1", r"eps must be numbers, got '0.1'"),
        ("eps", None, r"eps must be numbers, got None"),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, value: Any, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        learner_of().layer_groups.set(name, value)


def test_a_group_name_with_brackets_is_shown_as_it_is():
    split = {"0": "early [red]", "1": "late[/]", "2": "head"}
    table = str(learner_of(split=split).layer_groups)
    assert "early [red]" in table
    assert "late[/]" in table
