"""What a model's outputs mean: one class a picture, any number of classes, or numbers."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from torch import Tensor
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


def default_loss(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, of one class or of each by itself; the mean squared error of numbers."""
    if task == "single_label":
        return F.cross_entropy
    return F.binary_cross_entropy_with_logits if task == "multi_label" else F.mse_loss
