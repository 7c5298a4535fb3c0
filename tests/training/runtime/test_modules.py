"""Modules: modes that come back, flags that are seen, and listeners that are counted."""

from collections.abc import Callable

import pytest
from torch import nn

from finetune.training.runtime.modules import computes_again, eval_mode, is_free


def test_the_modes_are_restored_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval(), nn.Linear(2, 2))
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(ZeroDivisionError, match="division"), eval_mode(model):
        1 / 0  # noqa: B018
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("flag", ["grad_checkpointing", "gradient_checkpointing"])
def test_activations_that_are_computed_again_are_seen_in_any_part(flag: str):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert not computes_again(model)
    setattr(model[1][0], flag, True)
    assert computes_again(model)


@pytest.mark.parametrize(
    ("listen", "freed_by_one"),
    [
        (lambda layer: layer.register_forward_hook(lambda *_: None), True),
        (lambda layer: layer.register_forward_pre_hook(lambda *_: None), True),
        (lambda layer: layer.register_full_backward_hook(lambda *_: None), False),
        (lambda layer: layer.register_full_backward_pre_hook(lambda *_: None), False),
        (lambda layer: setattr(layer, "forward", layer.forward), False),
    ],
)
def test_a_module_is_free_if_nobody_listens(listen: Callable, freed_by_one: bool):
    layer = nn.Linear(2, 2)
    assert is_free(layer)
    listen(layer)
    assert not is_free(layer)
    assert is_free(layer, our_hooks=1) == freed_by_one
