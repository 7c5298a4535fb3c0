"""The blocks of a network in order of depth."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from finetune.models.blocks import Body, read_body


class Block(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


class Stage(nn.Module):
    """Downsampling, blocks, norm."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(Block(), Block())
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.norm = nn.LayerNorm(2)


class Net(nn.Module):
    """A class token, a stem, stages, a norm."""

    def __init__(self, *counts: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.stages = nn.Sequential(*map(Stage, counts))
        self.norm = nn.LayerNorm(2)
        self.cls_token = nn.Parameter(torch.zeros(2))


class Wrapper(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.neck = network, nn.Linear(2, 2)


def names(network: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    name_of = {id(p): name for name, p in network.named_parameters()}
    return [name_of[id(p)] for p in parameters]


def paths(body: Body) -> list[list[str]]:
    return [[block.path for block in stage.blocks] for stage in body.stages]


def test_containers_are_opened_and_blocks_are_not():
    body = read_body(Net(1, 2))
    assert [stage.path for stage in body.stages] == ["stages.0", "stages.1"]
    assert paths(body) == [
        ["stages.0.downsample", "stages.0.blocks.0"],
        ["stages.1.downsample", "stages.1.blocks.0", "stages.1.blocks.1"],
    ]


def test_the_stem_has_what_the_network_owns():
    network = Net(1, 1)
    assert names(network, read_body(network).stem) == ["cls_token", "conv.weight", "conv.bias"]


def test_a_norm_belongs_to_the_block_before_it():
    network = Net(1, 1)
    first, last = (stage.blocks[-1] for stage in read_body(network).stages)
    assert names(network, first.parameters)[-2:] == ["stages.0.norm.weight", "stages.0.norm.bias"]
    assert names(network, last.parameters)[-2:] == ["norm.weight", "norm.bias"]


def test_what_is_no_block_belongs_to_the_next():
    network = nn.Sequential(nn.Linear(2, 2), Block(), nn.LayerNorm(2), nn.Linear(2, 2), Block())
    (stage,) = read_body(network).stages
    assert [block.path for block in stage.blocks] == ["1", "4"]
    assert names(network, stage.blocks[0].parameters)[-2:] == ["2.weight", "2.bias"]
    assert names(network, stage.blocks[1].parameters)[:2] == ["3.weight", "3.bias"]


def test_between_stages_belongs_to_the_next_stage():
    network = nn.Sequential(
        nn.Sequential(Block(), Block()), nn.Linear(2, 2), nn.Sequential(Block(), Block())
    )
    _, second = read_body(network).stages
    assert names(network, second.parameters)[:2] == ["1.weight", "1.bias"]


def test_equal_blocks_in_one_list_are_one_stage():
    network = nn.Sequential()
    network.add_module("embed", nn.Linear(2, 2))
    network.add_module("blocks", nn.ModuleList(Block() for _ in range(3)))
    body = read_body(network)
    assert [stage.path for stage in body.stages] == ["blocks"]
    assert paths(body) == [["blocks.0", "blocks.1", "blocks.2"]]


def test_a_block_that_holds_a_list_of_blocks_stays_whole():
    outer = nn.Module()
    outer.blocks = nn.ModuleList(Stage(2) for _ in range(3))
    assert paths(read_body(outer)) == [["blocks.0", "blocks.1", "blocks.2"]]


def test_in_a_plain_stack_every_layer_is_a_block():
    stack = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    body = read_body(stack)
    assert paths(body) == [["0", "3"]]
    assert names(stack, body.blocks[0].parameters)[2:] == ["1.weight", "1.bias"]


def test_a_wrapped_network_is_opened():
    body = read_body(Wrapper(Net(1, 2)))
    assert [stage.path for stage in body.stages] == ["network.stages.0", "network.stages.1"]


def test_parameters_left_out_are_nowhere():
    network = Net(1, 1)
    body = read_body(network, {id(p) for p in network.norm.parameters()})
    inside = [*body.stem, *(p for stage in body.stages for p in stage.parameters)]
    left = {n for n, _ in network.named_parameters()} - set(names(network, inside))
    assert left == {"norm.weight", "norm.bias"}


def test_a_tied_weight_is_in_its_first_place_only():
    first, second = Block(), Block()
    second.first.weight = first.first.weight
    body = read_body(nn.Sequential(first, second))
    assert [len(block.parameters) for block in body.blocks] == [4, 3]


def test_a_network_without_parameters_has_no_stages():
    assert read_body(nn.Sequential(nn.Flatten())) == Body([], [])


@pytest.mark.parametrize(
    ("create", "name", "stages", "blocks"),
    [
        (timm.create_model, "regnetx_002", ["s1", "s2", "s3", "s4"], 13),
        (torchvision.models.get_model, "maxvit_t", [f"blocks.{i}" for i in range(4)], 11),
        (timm.create_model, "densenet121", [f"features.denseblock{i}" for i in (1, 2, 3, 4)], 58),
        (timm.create_model, "crossvit_9_240", ["blocks"], 3),
        (timm.create_model, "dla169", ["body"], 4),
    ],
)
def test_stages_and_blocks_of(
    create: Callable[[str], nn.Module], name: str, stages: list[str], blocks: int
):
    with torch.device("meta"):
        body = read_body(create(name))
    assert [stage.path for stage in body.stages] == stages
    assert len(body.blocks) == blocks
