"""What a model's outputs mean: one class an image, any number of classes, or numbers."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn
from torch.nn import functional as F

Task: TypeAlias = Literal["single_label", "multi_label", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)


def check_task(task: str) -> Task:
    """The task. Raises ValueError for another name.

    >>> check_task("multi_label")
    'multi_label'
    """
    for known in TASKS:
        if task == known:
            return known
    raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")


def activation(outputs: Tensor, task: Task) -> Tensor:
    """Outputs of a model [N, C] as float32 probabilities; for a regression as they are.

    >>> import torch
    >>> activation(torch.zeros(1, 2), "single_label")
    tensor([[0.5000, 0.5000]])
    """
    if task == "single_label":
        return outputs.float().softmax(dim=1)
    return outputs.float().sigmoid() if task == "multi_label" else outputs.float()


class SquaredError(nn.Module):
    """The mean of ((outputs - targets) / std)^2, std [K]: the same for grams and for tonnes.

    In the targets' own unit small gradients vanish in AdamW's eps, and large ones in float16.
    """

    std: Tensor

    def __init__(self, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("std", std.clone())

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs / self.std, targets / self.std)


def default_loss(task: Task, std: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, of one class or of each by itself; the squared error of numbers.

    std: [K], of the training targets, in which errors are counted.
    """
    if task == "single_label":
        return F.cross_entropy
    if task == "multi_label":
        return F.binary_cross_entropy_with_logits
    return F.mse_loss if std is None else SquaredError(std)
