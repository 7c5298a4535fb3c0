"""LayerGroups: partition, freezing, normalisation policy, learning rates."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import copy_of, golden_figures, same_state, tiny_data, tiny_learner, tiny_model
from torch import nn

from finetune import LayerGroups, Learner, adamw
from finetune.optim.factories import OptimizerFactory

GROUPS_OF_TINY = [1, 2]


def tiny_groups(**options: object) -> LayerGroups:
    """Three groups; the first two have BatchNorm and Dropout."""
    return LayerGroups.from_model(tiny_model(3), GROUPS_OF_TINY, **options)  # type: ignore[arg-type]


# --- the partition


def block(kind: str) -> nn.Module:
    layers = {
        "linear": lambda: nn.Linear(2, 2),
        "norm": lambda: nn.BatchNorm1d(2),
        "dropout": lambda: nn.Dropout(),
        "relu": lambda: nn.ReLU(),
        "nested": lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)),
    }
    return layers[kind]()


few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def split_models(draw: st.DrawFn) -> tuple[nn.Sequential, list[int]]:
    """A Sequential and valid indices: every group has a parameter."""
    kinds = ["linear", "norm", "dropout", "relu", "nested"]
    model = nn.Sequential(
        *map(block, draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=8)))
    )
    starts = sorted(draw(st.sets(st.integers(1, len(model) - 1), min_size=1)))
    bounds = zip([0, *starts], [*starts, len(model)], strict=True)
    assume(all(list(model[a:b].parameters()) for a, b in bounds))
    return model, starts


@given(split_models())
@few
def test_every_parameter_is_in_exactly_one_group_in_order(case: tuple[nn.Sequential, list[int]]):
    model, starts = case
    groups = LayerGroups.from_model(model, starts)
    in_groups = [(name, id(p)) for group in groups for name, p in group.parameters.items()]
    assert in_groups == [(name, id(p)) for name, p in model.named_parameters()]
    assert len(groups) == len(starts) + 1


@given(split_models())
@few
def test_every_module_but_the_root_is_in_exactly_one_group(case: tuple[nn.Sequential, list[int]]):
    model, starts = case
    in_groups = [id(m) for group in LayerGroups.from_model(model, starts) for m in group.modules]
    assert sorted(in_groups) == sorted(id(m) for m in model.modules() if m is not model)


@given(split_models())
@few
def test_parameters_are_in_the_group_of_their_index(case: tuple[nn.Sequential, list[int]]):
    model, starts = case
    for i, group in enumerate(LayerGroups.from_model(model, starts)):
        children = {int(name.split(".")[0]) for name in group.parameters}
        assert all(sum(start <= child for start in starts) == i for child in children)


SPLITS = {"index": [2], "path": ["2"], "function": lambda m: [m[:2], m[2:]]}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_layer_without_parameters_is_in_the_group_that_it_begins(split):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Linear(2, 2))
    body, head = LayerGroups.from_model(model, split)
    assert model[2] not in body.modules
    assert model[2] in head.modules


def test_the_dropout_of_the_head_works_while_the_body_is_frozen():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(), nn.Linear(2, 2))
    groups = LayerGroups.from_model(model, [2])
    groups.freeze_to(1)
    groups.set_training_modes()
    assert model[2].training


def test_an_orphan_of_a_split_function_is_named():
    model = tiny_model(3)
    with pytest.raises(ValueError, match=r"in no layer group: 1\.0\.weight, 1\.0\.bias"):
        LayerGroups.from_model(model, lambda m: [[m[0]], [m[2]]])


def test_groups_are_a_sequence():
    groups = tiny_groups()
    assert groups.names == ("0", "1", "2")
    assert groups[-1] is list(groups)[2]
    assert [group.name for group in groups[:2]] == ["0", "1"]


def test_parameters_are_counted():
    groups = tiny_groups()
    groups.freeze_to(1)
    assert [group.parameter_count for group in groups] == [28, 28, 10]
    assert [group.trainable_count for group in groups] == [0, 28, 10]


def test_the_table_shows_every_group():
    groups = tiny_groups()
    groups.set_values("lr", [1e-4, 1e-3, 1e-2])
    text = str(groups)
    assert all(word in text for word in ("0.0 .. 0.1", "28", "follow", "0.0001", "0.01"))


# --- weight decay


def test_biases_and_normalisation_layers_do_not_decay():
    assert tiny_groups()[0].no_decay == {"0.0.bias", "0.1.weight", "0.1.bias"}


def test_what_the_model_lists_does_not_decay():
    class Listed(nn.Linear):
        def no_weight_decay(self) -> set[str]:
            return {"weight"}

    groups = LayerGroups.from_model(nn.Sequential(nn.Linear(2, 2), Listed(2, 2)))
    assert [group.no_decay for group in groups] == [{"0.bias"}, {"1.weight", "1.bias"}]


def test_the_biases_of_attention_do_not_decay():
    groups = LayerGroups.from_model(nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 2)))
    assert groups[0].no_decay == {"0.in_proj_bias", "0.out_proj.bias"}


# --- freezing


def test_freezing_clears_flags_and_gradients():
    groups = tiny_groups()
    groups.model(torch.randn(4, 4)).sum().backward()
    groups.freeze_to(2)
    frozen = [p for group in groups[:2] for p in group.parameters.values()]
    assert not any(p.requires_grad for p in frozen)
    assert all(p.grad is None for p in frozen)


def test_freezing_leaves_the_gradients_of_the_others():
    groups = tiny_groups()
    groups.model(torch.randn(4, 4)).sum().backward()
    groups.freeze_to(2)
    assert all(p.requires_grad and p.grad is not None for p in groups[2].parameters.values())


def test_unfreezing_restores_the_flags():
    groups = tiny_groups()
    groups.freeze_to(2)
    groups.freeze_to(0)
    assert all(p.requires_grad for p in groups.model.parameters())


def test_a_parameter_that_came_without_gradient_stays_without():
    model = tiny_model(3)
    model[0][0].weight.requires_grad_(False)
    groups = LayerGroups.from_model(model, GROUPS_OF_TINY)
    groups.freeze_to(2)
    groups.freeze_to(0)
    assert not model[0][0].weight.requires_grad


@pytest.mark.parametrize(("count", "frozen"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-2, 1)])
def test_freeze_to_counts_from_the_front_or_the_end(count: int, frozen: int):
    groups = tiny_groups()
    groups.freeze_to(count)
    assert [group.frozen for group in groups] == [i < frozen for i in range(3)]
    assert groups.frozen_count == frozen


@pytest.mark.parametrize("count", [3, -3, 5])
def test_freezing_everything_is_an_error(count: int):
    with pytest.raises(
        ValueError, match=rf"needs 0 <= count <= 2 for 3 groups \(0, 1, 2\), got {count}"
    ):
        tiny_groups().freeze_to(count)


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("optimizer", [adamw, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("norm", ["eval", "follow"])
@pytest.mark.parametrize("trained_before", [False, True])
def test_frozen_weights_and_buffers_are_bit_identical_after_training(
    optimizer: OptimizerFactory, norm: str, trained_before: bool
):
    learner = tiny_learner(3, data=tiny_data(12, 4), norm=norm, optimizer=optimizer)
    if trained_before:  # leaves momentum behind in the optimizer
        learner.fit(1, 1e-2)
    learner.freeze()
    before = copy_of(learner.model[:2].state_dict())
    learner.fit(1, 1e-2)
    assert same_state(learner.model[:2].state_dict(), before)


def test_the_group_that_is_not_frozen_trains():
    learner = tiny_learner(3, data=tiny_data(12, 4))
    before = [copy_of(child.state_dict()) for child in learner.model]
    learner.freeze_to(1)
    learner.fit(1, 1e-2)
    is_unchanged = [
        same_state(child.state_dict(), state)
        for child, state in zip(learner.model, before, strict=True)
    ]
    assert is_unchanged == [True, False, False]


def test_weights_of_all_groups_train_after_unfreezing():
    learner = tiny_learner(3, data=tiny_data(12, 4))
    learner.freeze()
    learner.fit(1, 1e-2)
    before = copy_of(dict(learner.model.named_parameters()))
    learner.unfreeze()
    learner.fit(1, 1e-2)
    after = dict(learner.model.named_parameters())
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_a_stale_gradient_does_not_move_a_frozen_weight():
    learner = tiny_learner(2)
    learner.model(torch.randn(4, 4)).sum().backward()
    learner.freeze()
    before = copy_of(learner.model[0].state_dict())
    learner.optimizer.step()
    assert same_state(learner.model[0].state_dict(), before)


# --- normalisation policy


def training_flags(learner: Learner) -> tuple[bool, bool]:
    """Of the BatchNorm and the Dropout of the first group, after the policy is applied."""
    learner.layer_groups.set_training_modes()
    return learner.model[0][1].training, learner.model[0][3].training


@pytest.mark.parametrize(
    ("norm", "frozen", "expected"),
    [
        ("eval", False, (False, True)),
        ("eval", True, (False, False)),
        ("train", False, (True, True)),
        ("train", True, (True, False)),
        ("follow", False, (True, True)),
        ("follow", True, (False, False)),
    ],
)
def test_modes_of_normalisation_and_dropout(norm: str, frozen: bool, expected: tuple[bool, bool]):
    learner = tiny_learner(2, norm=norm)
    learner.freeze_to(int(frozen))
    assert training_flags(learner) == expected


class Spanning(nn.Module):
    """Layers of two groups, and a flag of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Linear(2, 2), nn.Linear(2, 2)


def spanning_groups(norm: str | None = None) -> LayerGroups:
    model = nn.Sequential(Spanning(), nn.Linear(2, 2))
    if norm is not None:
        model[0].late = nn.BatchNorm1d(2)
    return LayerGroups.from_model(model, lambda m: [[m[0].early], [m[0].late], [m[1]]], norm=norm)


@pytest.mark.parametrize(("frozen", "trains"), [(0, True), (1, True), (2, False)])
def test_a_module_that_spans_groups_trains_while_anything_inside_does(frozen: int, trains: bool):
    groups = spanning_groups()
    groups.freeze_to(frozen)
    groups.set_training_modes()
    assert groups.model[0].training == trains
    assert groups.model.training


def test_a_module_that_spans_groups_trains_again_when_they_are_unfrozen():
    groups = spanning_groups()
    for frozen in (2, 0):
        groups.freeze_to(frozen)
        groups.set_training_modes()
    assert groups.model[0].training


@pytest.mark.parametrize(("norm", "trains"), [("train", True), ("eval", False)])
def test_a_module_that_spans_groups_trains_with_its_normalisation_layers(norm: str, trains: bool):
    groups = spanning_groups(norm)
    groups.freeze_to(2)
    groups.set_training_modes()
    assert groups.model[0].training == trains


def test_the_policy_is_applied_again_after_model_train():
    learner = tiny_learner(2, norm="eval")
    learner.freeze()
    learner.model.train()
    assert training_flags(learner) == (False, False)


def test_the_policy_is_in_force_at_every_epoch_of_a_fit():
    learner = tiny_learner(2, data=tiny_data(8, 4), norm="eval")
    seen: list[bool] = []
    norm = learner.model[0][1]
    norm.register_forward_hook(lambda *_: seen.append(norm.training))
    learner.fit(2)
    assert len(seen) >= 4
    assert not any(seen)


def test_a_layer_in_eval_mode_trains_again_when_its_group_does():
    learner = tiny_learner(2, norm="follow")
    learner.freeze()
    assert training_flags(learner) == (False, False)
    learner.unfreeze()
    assert training_flags(learner) == (True, True)


def affine_and_statistics_move(norm: str, *, frozen: bool) -> tuple[bool, bool]:
    learner = tiny_learner(2, data=tiny_data(12, 4), norm=norm)
    layer = learner.model[0][1]
    before = copy_of(layer.state_dict())
    learner.freeze_to(int(frozen))
    learner.fit(1, 1e-2)
    after = layer.state_dict()
    moved = {name: not torch.equal(after[name], before[name]) for name in after}
    assert moved["weight"] == moved["bias"]
    assert moved["running_mean"] == moved["running_var"] == moved["num_batches_tracked"]
    return moved["weight"], moved["running_mean"]


@pytest.mark.parametrize(
    ("norm", "frozen", "expected"),
    [
        ("eval", False, (True, False)),
        ("eval", True, (False, False)),
        ("train", False, (True, True)),
        ("train", True, (True, True)),
        ("follow", False, (True, True)),
        ("follow", True, (False, False)),
    ],
)
def test_affine_parameters_and_statistics_move_as_the_policy_says(
    norm: str, frozen: bool, expected: tuple[bool, bool]
):
    assert affine_and_statistics_move(norm, frozen=frozen) == expected


def test_in_a_frozen_group_the_train_policy_trains_normalisation_layers_only():
    learner = tiny_learner(2, norm="train")
    learner.freeze()
    assert [n for n, p in learner.model[0].named_parameters() if p.requires_grad] == [
        "1.weight",
        "1.bias",
    ]


def test_learned_statistics_are_kept_by_default():
    model = tiny_model(3)
    model(torch.randn(8, 4))  # the statistics of both groups move
    model[1][1].reset_running_stats()
    groups = LayerGroups.from_model(model, GROUPS_OF_TINY)
    assert [group.norm for group in groups] == ["eval", "follow", "follow"]


def test_one_policy_holds_for_all_groups_but_the_last():
    assert [group.norm for group in tiny_groups(norm="train")] == ["train", "train", "follow"]


def test_policies_may_be_given_by_group():
    assert [group.norm for group in tiny_groups(norm={"1": "eval"})] == ["follow", "eval", "follow"]


def test_a_policy_for_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match="norm names group 'body'; the groups are 0, 1, 2"):
        tiny_groups(norm={"body": "eval"})


# --- learning rates


def groups_of(count: int) -> LayerGroups:
    split = list(range(1, count)) if count > 1 else lambda model: [[model]]
    return LayerGroups.from_model(nn.Sequential(*(nn.Linear(1, 1) for _ in range(count))), split)


SPREADS = golden_figures("spread.json")["cases"]


@pytest.mark.parametrize("case", SPREADS, ids=lambda c: f"{c['groups']} {c['value']}")
def test_rates_are_spread_as_in_fastai(case: dict):
    value = case["value"]
    value = slice(*value["slice"]) if isinstance(value, dict) else value
    assert groups_of(case["groups"]).spread(value) == pytest.approx(case["lr"], rel=1e-12, abs=0)


def test_a_list_gives_one_rate_per_group():
    assert groups_of(3).spread([1e-4, 1e-2, 1]) == (1e-4, 1e-2, 1.0)


@pytest.mark.parametrize("rates", [[1e-3], [1e-3] * 4, []])
def test_the_wrong_number_of_rates_names_both_counts(rates: list[float]):
    with pytest.raises(
        ValueError, match=rf"got {len(rates)} learning rates for 3 groups \(0, 1, 2\)"
    ):
        groups_of(3).spread(rates)


@pytest.mark.parametrize(
    "lr", [slice(0, 1e-3), slice(-1e-3, 1e-3), slice(0), slice(-1), slice(1e-3, None)]
)
def test_a_slice_needs_positive_ends(lr: slice):
    with pytest.raises(ValueError, match=r"slice\((hi|lo, hi)\) must be|lr must be slice\(hi\)"):
        groups_of(3).spread(lr)


def test_a_slice_goes_from_the_lower_rate_to_the_higher():
    with pytest.raises(ValueError, match=r"lower rate of lr=.* at most 0\.0001, got 0\.01"):
        groups_of(3).spread(slice(1e-2, 1e-4))


def test_a_slice_has_no_step():
    with pytest.raises(ValueError, match=r"must be slice\(hi\) or slice\(lo, hi\)"):
        groups_of(3).spread(slice(1e-4, 1e-2, 2))


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), [1e-3, 0, 1e-3]])
def test_rates_are_positive_and_finite(lr: object):
    with pytest.raises(ValueError, match="learning rates must be positive and finite"):
        groups_of(3).spread(lr)  # type: ignore[arg-type]


@given(st.integers(2, 6), st.floats(1e-8, 1e-2), st.floats(1, 1e4))
@settings(max_examples=50, deadline=None)
def test_a_slice_is_geometric_between_its_ends(count: int, low: float, factor: float):
    rates = groups_of(count).spread(slice(low, low * factor))
    assert rates[0] == low
    assert rates[-1] == pytest.approx(low * factor)
    ratios = [b / a for a, b in pairwise(rates)]
    assert ratios == pytest.approx([ratios[0]] * (count - 1))


def test_values_are_set_one_per_group():
    groups = groups_of(2)
    groups.set_values("lr", [1e-4, 1e-2])
    assert [group.values for group in groups] == [{"lr": 1e-4}, {"lr": 1e-2}]


def test_values_need_one_per_group():
    with pytest.raises(ValueError, match="zip"):
        groups_of(2).set_values("lr", [1e-4])


def test_freezing_a_later_group_by_hand_is_refused():
    groups = LayerGroups.from_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    groups[1].set_frozen(True)
    with pytest.raises(ValueError, match=r"only leading groups can be frozen; use freeze_to\(n\)"):
        _ = groups.frozen_count
