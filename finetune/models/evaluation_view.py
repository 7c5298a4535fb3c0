"""A model in evaluation, apart from its training: the same tensors, modules of their own."""

import copy
from itertools import chain
from typing import Any

from torch import Tensor, nn

from finetune.distributed.sharding import is_sharded

_HOOK_DICTIONARIES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def evaluation_view(model: nn.Module, *, copies_buffers: bool = False) -> nn.Module:
    """A copy of the modules, in eval mode, that shares all parameters and buffers.

    It costs no memory to speak of, follows every change of the weights, and leaves the modes of
    `model` alone, so that a prediction in the middle of a fit, or in another thread, disturbs
    nothing. Hooks that are there already are called; those that come later are not.
    copies_buffers: buffers are copied, for modules that may move them in eval mode, too.
    A sharded model can't be copied: it is put into eval mode itself.
    """
    if is_sharded(model):
        for module in model.modules():
            module.training = False
        return model
    shared: dict[int, Any] = {}
    shared_buffers = [] if copies_buffers else model.buffers()
    for tensor in chain(model.parameters(), shared_buffers):
        shared[id(tensor)] = tensor
    for module in model.modules():
        for value in vars(module).values():
            # such as an attention map that a module keeps of its last call: it can't be copied
            if isinstance(value, Tensor):
                shared[id(value)] = value
        for name in _HOOK_DICTIONARIES:
            # the functions are the user's, and a copy of an object behind them would see nothing
            hooks = getattr(module, name, None)
            if hooks:
                shared[id(hooks)] = copy.copy(hooks)
    view = copy.deepcopy(model, shared)
    # not eval(): a model of the user's may do more there, such as merging weights in place
    for module in view.modules():
        module.training = False
    return view
