"""Questions about a model's modules: their modes, their flags, and whether anybody listens."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from finetune.distributed.sharding import is_of_sharding


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts all modules into eval mode, and restores the mode of each on leaving.

    It sets the flags alone: a model's own `eval()` may do more, such as merging weights.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def computes_again(model: nn.Module) -> bool:
    """Whether activations are computed again in the backward pass (gradient checkpointing).

    The backward pass runs outside of our contexts, so the second computation would not see them.
    """
    for module in model.modules():
        in_timm = getattr(module, "grad_checkpointing", False)
        in_transformers = getattr(module, "gradient_checkpointing", False)
        if in_timm or in_transformers:
            return True
    return False


def is_free(module: nn.Module, our_hooks: int = 0) -> bool:
    """Whether nobody listens to what goes in and out, or has replaced the module's forward.

    our_hooks: how many forward hooks, and how many pre-hooks, are not to be counted.
    """
    hook_count = 0
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        hook_count = max(hook_count, sum(not is_of_sharding(hook) for hook in hooks.values()))
    if hook_count > our_hooks or module._backward_hooks or module._backward_pre_hooks:
        return False
    return "forward" not in vars(module)
