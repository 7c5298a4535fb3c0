"""Heads: pooled features -> logits."""

import pytest
import torch
from torch import nn

from finetune.models.heads import TargetScale, create_head


def test_the_mlp_head_is_the_one_people_know():
    norm, drop, linear, relu, hidden_norm, hidden_drop, last = create_head("mlp", 8, 3)
    assert (norm.num_features, hidden_norm.num_features) == (8, 512)
    assert (drop.p, hidden_drop.p) == (0.25, 0.5)
    assert (linear.in_features, linear.out_features, linear.bias) == (8, 512, None)
    assert isinstance(relu, nn.ReLU)
    assert (last.in_features, last.out_features) == (512, 3)
    assert last.bias is not None


def test_the_linear_head_is_dropout_and_one_layer():
    drop, linear = create_head("linear", 8, 3, dropout=0.2)
    assert drop.p == 0.2
    assert (linear.in_features, linear.out_features) == (8, 3)


def test_dropout_is_halved_before_the_first_layer():
    head = create_head("mlp", 8, 3, dropout=0.3, hidden=16)
    assert (head[1].p, head[5].p) == (0.15, 0.3)
    assert head[2].out_features == 16


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_head_turns_features_into_logits(kind):
    assert create_head(kind, 8, 3)(torch.randn(5, 8)).shape == (5, 3)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="head must be one of 'mlp', 'linear', got 'conv'"):
        create_head("conv", 8, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_that_is_no_probability_below_one_is_an_error(dropout: float):
    with pytest.raises(ValueError, match=f"dropout must be .* and below 1, got {dropout}"):
        create_head("mlp", 8, 3, dropout=dropout)


def test_target_scale_brings_outputs_into_the_unit_of_the_targets() -> None:
    targets = torch.tensor([[1000.0, 5], [1100, 5], [1200, 5]])
    scale = TargetScale(2)
    scale.fit(targets)
    assert torch.equal(scale(torch.zeros(1, 2)), torch.tensor([[1100.0, 5]]))
    one = scale(torch.ones(1, 2))[0]
    assert one.tolist() == pytest.approx([1100 + 81.6497, 6], abs=1e-3)
    assert not list(scale.parameters())
    assert set(scale.state_dict()) == {"mean", "std"}


def test_target_that_is_always_the_same_is_only_shifted() -> None:
    scale = TargetScale(1)
    scale.fit(torch.full((1000, 1), 0.1))  # whose float32 mean is another number
    assert (scale.mean.tolist(), scale.std.tolist()) == (pytest.approx([0.1]), [1])
