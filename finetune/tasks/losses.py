"""Losses of whole batches, and of each example by itself."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> mean loss over the batch, a scalar."""


class SquaredError(nn.Module):
    """The mean of ((outputs - targets) / std)^2, which is the same for grams and for tonnes.

    std: [K], of the targets of training. In the targets' own unit small gradients would vanish in
    AdamW's eps, and large ones overflow in float16.
    """

    std: Tensor

    def __init__(self, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("std", std.clone())

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs / self.std, targets / self.std)


def example_losses(
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    *,
    functions: Sequence[Callable[..., Tensor]],
    modules: Sequence[type[nn.Module]],
) -> Tensor:
    """The loss of each example, [B]: the mean over its classes or targets.

    functions, modules: torch's losses for the task, which can give one value for each example. A
    `loss` that is one of them (or a partial of one, or a module with weights or smoothing) counts
    as it is; for any other loss the first of `functions` takes its place.
    """
    function: Callable[..., Tensor] = functions[0]
    options: dict[str, Any] = {"reduction": "none"}
    if isinstance(loss, SquaredError):
        outputs, targets = outputs / loss.std, targets / loss.std
    elif isinstance(loss, tuple(modules)):
        unreduced: Any = copy.copy(loss)
        unreduced.reduction = "none"
        function, options = unreduced, {}
    else:
        plain_function = loss.func if isinstance(loss, partial) else loss
        if plain_function in functions:
            function = loss
    losses = function(outputs, targets, **options).detach()
    if losses.ndim == 1:
        return losses
    return losses.flatten(1).mean(dim=1)
