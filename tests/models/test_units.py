"""The units of a sharded model: its blocks."""

import pytest
from torch import nn

from finetune.models.classifier import Architecture
from finetune.models.units import sharding_units
from finetune.vision import made_without_weights


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit_base_patch16_224", 12), ("swin_tiny_patch4_window7_224", 12), ("vgg11", 0)],
)
def test_the_units_are_the_blocks(name: str, blocks: int) -> None:
    model = made_without_weights(Architecture.create(name, classes=3))
    units = sharding_units(model)
    assert len(units) == blocks
    inside = sum(parameter.numel() for unit in units for parameter in unit.parameters())
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert inside > 0.9 * everything or not units


def test_of_several_backbones_each_has_its_units():
    model = made_without_weights(Architecture.create(["test_vit", "test_resnet"], classes=3))
    counts = [
        len(sharding_units(made_without_weights(Architecture.create(name, classes=3))))
        for name in ("test_vit", "test_resnet")
    ]
    assert len(sharding_units(model)) == sum(counts)


def test_a_block_with_a_tied_weight_is_no_unit():
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3)]
    blocks[2][1].weight = blocks[0][0].weight
    model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(2, 2))
    assert sharding_units(model) == [blocks[1]]
