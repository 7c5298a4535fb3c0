"""Wrappers around a whole model that torch makes: here they are made later, by the library."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def check_not_wrapped(model: nn.Module) -> None:
    """Raises ValueError, with the way out, for a model that was compiled or made parallel.

    Such a wrapper is made in each phase, after freezing: one that was made before does not see
    what is unfrozen, and hides the names of the layers.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "model is what torch.compile() made; pass the model itself, and "
            "runtime=Runtime(device, compile=True) compiles it where it trains"
        )
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ValueError(
            f"model is a {type(model).__name__}; pass its .module. For several devices start the "
            "script with torchrun, a process for each"
        )
