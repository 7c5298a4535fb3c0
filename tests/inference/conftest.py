"""Learners of every task, on tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import DataLoaders, Learner
from finetune.tasks import resolve_task


@pytest.fixture
def of_task() -> Callable[..., Learner]:
    """(task, loss, loaders) -> a learner of two labels or two numbers, 48 examples."""

    def make(task: str, loss: Callable | None = None, loaders: type = DataLoaders) -> Learner:
        torch.manual_seed(0)
        inputs = torch.randn(48, 4)
        targets = inputs[:, :2] * 5 + 9 if task == "regression" else (inputs[:, :2] > 0).float()
        loader = DataLoader(TensorDataset(inputs, targets), 16)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        return Learner(
            loaders(loader, loader, classes=["left", "right"], task=task), model,
            loss=resolve_task(task).default_loss() if loss is None else loss,
            device="cpu", precision="fp32", progress=False,
        )  # fmt: skip

    return make
