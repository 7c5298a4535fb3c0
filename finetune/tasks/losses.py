"""Losses of whole batches, and of each example by itself."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> mean loss over the batch, a scalar."""


def takes_probabilities(loss: Loss | None) -> bool:
    """Whether a loss compares probabilities, so that the model has the sigmoid in it."""
    function = loss.func if isinstance(loss, partial) else loss
    return isinstance(loss, nn.BCELoss) or function is F.binary_cross_entropy


def batch_loss(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """The loss of a batch, a scalar.

    Raises TypeError for a loss that gives no tensor. Raises ValueError for one that gives several
    numbers, and for class numbers that the outputs have no column for.
    """
    try:
        value = loss(outputs, targets)
    except IndexError as error:
        raise ValueError(_unknown_class_message(outputs, targets, error)) from error
    if not isinstance(value, Tensor):
        raise TypeError(f"the loss must give a tensor, got {type(value).__name__}")
    if value.ndim == 0:
        return value
    if value.numel() != 1:
        raise ValueError(
            f"the loss must give one number for a batch, got a tensor {list(value.shape)}; "
            "pass reduction='mean', or return the mean"
        )
    return value.reshape(())


def _unknown_class_message(outputs: Any, targets: Any, error: IndexError) -> str:
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not are_tensors or outputs.ndim < 2 or targets.is_floating_point():
        return f"the loss failed on these outputs and targets: {error}"
    columns = outputs.shape[1]
    return (
        f"the loss takes class numbers from 0 to {columns - 1}, one for each of the model's "
        f"{columns} outputs, and the targets go from {int(targets.min())} to "
        f"{int(targets.max())}: {error}; give the model an output for each class, or take the loss "
        "of the task"
    )


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
