"""Errors about a model that does not fit its data say the way out."""

import re

import pytest
import torch
from support import tiny_data, tiny_learner, tiny_model, tiny_pairs
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from finetune import DataLoaders, Learner


def named_data(batch_size: int = 4) -> DataLoaders:
    return DataLoaders(DataLoader(tiny_pairs(), batch_size), classes=["cat", "dog"])


def test_another_number_of_outputs_than_classes_is_said_with_both_numbers():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))
    learner = Learner(named_data(), model, loss=cross_entropy, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"6 outputs for 2 classes \(cat, dog\); give its last"):
        learner.fit_one_cycle(1)


def test_the_outputs_of_a_loss_that_is_no_cross_entropy_may_have_any_width():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))
    centres = torch.randn(6, 2)
    learner = Learner(
        named_data(),
        model,
        loss=lambda outputs, targets: cross_entropy(outputs @ centres, targets),
        device="cpu",
        progress=False,
    )
    learner.fit_one_cycle(1)


def test_a_batch_of_one_for_batchnorm_is_said_with_the_way_out():
    learner = tiny_learner(2, data=named_data(batch_size=1))
    with pytest.raises(ValueError, match=r"batch_size=2 or more .*drop_last=True"):
        learner.fit_one_cycle(1)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (torch.compile, "runtime=Runtime(device, compile=True)"),
        (nn.DataParallel, "pass its .module"),
    ],
)
def test_a_wrapped_model_is_refused_with_the_way_out(wrap, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Learner(tiny_data(), wrap(tiny_model(2)), loss=cross_entropy, device="cpu")
