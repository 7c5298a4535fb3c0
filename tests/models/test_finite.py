"""Which weights are NaN or infinite."""

import pytest
import torch
from torch import nn

from finetune.models.finite import non_finite_weights


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_parameters_that_are_not_finite_are_named(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert non_finite_weights(model) == []
    model[0].weight.data[0, 0] = value
    assert non_finite_weights(model) == ["0.weight"]


def test_buffers_may_be_infinite_but_not_nan() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    assert non_finite_weights(model) == []
    model.running_var[0] = torch.nan
    assert non_finite_weights(model) == ["running_var"]


def test_a_model_without_weights_has_none_that_are_broken() -> None:
    assert non_finite_weights(nn.ReLU()) == []
