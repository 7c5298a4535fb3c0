"""Which weights of a model are NaN or infinite."""

import torch
from torch import Tensor, nn

from finetune.distributed.sharding import local


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of the parameters that are not finite and of the buffers that have NaN.

    Infinite buffers may be meant, as the masks of attention are. The host waits for the device. Of
    sharded parameters it is the part of this process that is looked at.

    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.bias.data.fill_(torch.inf)
    >>> non_finite_weights(layer)
    ['bias']
    """
    is_broken: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        is_broken[name] = ~local(parameter.detach()).isfinite().all()
    for name, buffer in model.named_buffers():
        is_broken[name] = buffer.isnan().any()
    if not is_broken:
        return []
    # stacked, so that the host waits once and not for every tensor
    flags = torch.stack(list(is_broken.values())).tolist()
    return [name for name, flag in zip(is_broken, flags, strict=True) if flag]


def broken_in_words(names: list[str]) -> str:
    """The first of the names, for an error.

    >>> broken_in_words(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    shown = ", ".join(map(repr, names[:3]))
    if len(names) > 3:
        shown += f" and {len(names) - 3} more"
    return shown
