"""Where the weights began, and how far they went."""

import math

import pytest
import torch
from torch import nn

from finetune import LayerGroups
from finetune.interpret.movement import Moved
from finetune.training.origin import Origin


class Net(nn.Module):
    """A body with a parameter of its own beside two layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(4))
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        for layer in (self.body, self.head):
            nn.init.constant_(layer.weight, 1.0)
            nn.init.zeros_(layer.bias)


def groups() -> LayerGroups:
    return LayerGroups.from_model(Net(), lambda net: [[net.token, net.body], [net.head]])


def test_it_says_how_far_each_module_went() -> None:
    own = groups()
    origin = Origin(own)
    origin.keep()
    with torch.no_grad():
        own.model.body.weight += 1.0
        own.model.head.bias += 3.0
    rows = origin.movement()
    assert [(row.module, row.group) for row in rows] == [
        ("token", own.names[0]), ("body", own.names[0]), ("head", own.names[1])
    ]  # fmt: skip
    distances = [row.distance for row in rows]
    assert distances == pytest.approx([0.0, 1.0, math.sqrt(18) / 2])
    assert [row.count for row in rows] == [4, 6, 6]


def test_what_began_at_0_has_an_absolute_distance() -> None:
    own = groups()
    nn.init.zeros_(own.model.head.weight)
    origin = Origin(own)
    origin.keep()
    with torch.no_grad():
        own.model.head.weight += 1.0
    row = origin.movement()[-1]
    assert row == Moved("head", own.names[1], 2.0, 0.0, 6)
    assert row.distance == pytest.approx(2 / math.sqrt(6))


def test_only_the_first_weights_count() -> None:
    own = groups()
    origin = Origin(own)
    origin.keep()
    with torch.no_grad():
        own.model.body.weight += 1.0
    origin.keep()
    assert origin.movement()[1].distance == 1.0


def test_nothing_was_kept_and_nothing_moved() -> None:
    with pytest.raises(ValueError, match="no layer has moved before the first fit"):
        Origin(groups()).movement()
