"""Pending: what was done is told in order, and once."""

import math

import torch

from finetune.training.events import GroupUpdates, StepEnd
from finetune.training.pending import Pending


def row(step: int) -> StepEnd:
    return StepEnd("fit", 0, step, math.nan, (0.1,), ())


def test_the_events_of_several_steps_come_in_order() -> None:
    pending = Pending()
    pending.add(row(0), torch.tensor(0.5), torch.tensor([[2.0, 4.0], [0.25, math.inf]]))
    pending.add(row(1), torch.tensor(0.25))
    assert list(pending.read()) == [
        StepEnd("fit", 0, 0, 0.5, (0.1,), ()),
        GroupUpdates("fit", 0, 0, (2.0, 4.0), (0.25, math.inf)),
        StepEnd("fit", 0, 1, 0.25, (0.1,), ()),
    ]
    assert list(pending.read()) == []


def test_what_was_cleared_is_not_told() -> None:
    pending = Pending()
    pending.add(row(0), torch.tensor(0.5))
    pending.clear()
    assert list(pending.read()) == []
