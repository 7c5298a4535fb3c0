"""The order in which the modules of a network run."""

import pytest
import timm
import torch

from finetune.models.module_order import modules_in_order


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("twins_pcpvt_small", "blocks.0", "patch_embeds.1"),
        ("coat_lite_tiny", "serial_blocks1", "patch_embed2"),
        ("fasternet_t0", "stages.1.downsample", "stages.1.blocks"),
    ],
)
def test_modules_come_in_the_order_in_which_they_run(name: str, first: str, second: str):
    with torch.device("meta"):
        model = timm.create_model(name)
    paths = [path for path, _ in modules_in_order(model)]
    assert paths.index(first) < paths.index(second)
    named = dict(model.named_parameters())
    walked = {id(p) for _, m in modules_in_order(model) for p in m.parameters(recurse=False)}
    assert walked == {id(p) for p in named.values()}
