"""Torch's modes that a caller may be in: what the library computes does not depend on them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


@contextmanager
def usual_modes() -> Iterator[None]:
    """As outside of the caller's `inference_mode`, `no_grad`, `autocast` and default device.

    Also a decorator, for every public function that builds, trains or computes. Inside somebody's
    `autocast`, weights would be read and answers computed in half precision; inside `no_grad`
    nothing would train. The default dtype stays, since data of the caller may be made in it.

    >>> with torch.inference_mode(), usual_modes():
    ...     torch.ones(1, requires_grad=True).exp().requires_grad
    True
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for device_type in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        # where it is the CPU, the context would only slow down every call of torch
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def check_trainable(model: nn.Module) -> None:
    """Raises ValueError for a model that was made where no gradients can ever be taken."""
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise ValueError(
                f"{name!r} was made inside of torch.inference_mode(), so that it can't train; make "
                "the model outside of it"
            )
        if parameter.is_meta:
            raise ValueError(
                f"{name!r} is on the meta device and has no values; make the model on another "
                "device, or call model.to_empty(device=...) and load its weights"
            )
