"""Which layers have running statistics, which policy they get, and which parameters are theirs."""

import pytest
import timm
import torch
from torch import nn

from finetune.models.normalisation import (
    default_policy,
    has_running_statistics,
    named_policies,
    normalisation_parameters,
)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.BatchNorm1d(2, affine=False), True),
        (nn.InstanceNorm2d(2, track_running_stats=True), True),
        (nn.BatchNorm2d(2, track_running_stats=False), False),
        (nn.LayerNorm(2), False),
        (nn.GroupNorm(1, 2), False),
        (nn.Linear(2, 2), False),
    ],
    ids=str,
)
def test_running_statistics_are_recognised(module: nn.Module, expected: bool):
    assert has_running_statistics(module) is expected


def norm(*, mean: float = 0.0, var: float = 1.0) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(2)
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(var)
    return layer


@pytest.mark.parametrize("learned", [norm(mean=0.1), norm(var=2.0)], ids=["mean", "variance"])
def test_learned_statistics_are_kept(learned: nn.Module):
    assert default_policy([nn.Linear(2, 2), norm(), learned], last=False) == "eval"


def test_initial_statistics_are_learned_with_the_group():
    assert default_policy([norm(), nn.Linear(2, 2)], last=False) == "follow"


def test_a_group_without_normalisation_follows():
    assert default_policy([nn.Linear(2, 2)], last=False) == "follow"


def test_the_last_group_follows_even_with_learned_statistics():
    assert default_policy([norm(mean=0.1)], last=True) == "follow"


def test_one_policy_is_for_all_groups_but_the_last():
    assert named_policies("train", ["a", "b", "head"]) == {"a": "train", "b": "train"}


def test_policies_by_group_name_are_taken_as_they_are():
    assert named_policies({"head": "eval"}, ["a", "head"]) == {"head": "eval"}


def test_no_policy_names_none():
    assert named_policies(None, ["a", "head"]) == {}


def test_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match="norm names group 'b'; the groups are a, head"):
        named_policies({"b": "eval"}, ["a", "head"])


@pytest.mark.parametrize("names", [["a", "head"], ["head"]], ids=["two groups", "one group"])
def test_an_unknown_policy_is_an_error(names: list[str]):
    with pytest.raises(ValueError, match="must be one of 'eval', 'train', 'follow', got 'frozen'"):
        named_policies("frozen", names)  # type: ignore[arg-type]


def test_parameters_of_every_kind_of_normalisation_layer_are_found():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)
    )
    assert normalisation_parameters(model) == {
        "1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias", "4.weight",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["test_efficientnet", "test_efficientnet_gn", "test_convnext"])
def test_every_scale_of_a_timm_model_that_starts_at_one_is_a_normalisation_parameter(name: str):
    model = timm.create_model(name, num_classes=0)
    scales = {n for n, p in model.named_parameters() if torch.equal(p, torch.ones_like(p))}
    assert scales
    assert scales <= normalisation_parameters(model)


def test_layers_inside_a_block_with_norm_in_its_name_are_not_normalisation():
    class PreNormBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(2), nn.Linear(2, 2)

    assert normalisation_parameters(PreNormBlock()) == {"norm.weight", "norm.bias"}
