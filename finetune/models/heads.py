"""Heads: pooled features [B, F] -> logits [B, C]."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from finetune import arguments

HeadKind: TypeAlias = Literal["mlp", "linear"]


def create_head(
    kind: HeadKind, features: int, classes: int, *, dropout: float = 0.5, hidden: int = 512
) -> nn.Sequential:
    """Makes a head with new weights.

    kind: "mlp" is BatchNorm, Dropout(dropout / 2), Linear(features, hidden), ReLU, BatchNorm,
    Dropout(dropout), Linear(hidden, classes); "linear" is Dropout(dropout), Linear(features,
    classes). The layers are of torch.nn alone, because a model card shows their `repr` as Python.
    Raises ValueError for another kind, and unless 0 <= dropout < 1.

    >>> [type(layer).__name__ for layer in create_head("linear", 8, 2)]
    ['Dropout', 'Linear']
    """
    arguments.choice("head", kind, get_args(HeadKind))
    arguments.real_number("dropout", dropout, at_least=0, below=1)
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))
    return nn.Sequential(
        nn.BatchNorm1d(features),
        nn.Dropout(dropout / 2),
        nn.Linear(features, hidden, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(hidden),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


class TargetScale(nn.Module):
    """Turns outputs [B, K] of about unit size into the unit of the targets: outputs * std + mean.

    The network then learns standardised targets, so that learning rates that suit logits suit
    years or prices, too. It has no parameters; mean and std [K] are saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("std", torch.ones(targets))

    def fit(self, targets: Tensor) -> None:
        """Takes mean and std from the training targets [N, K].

        A target that is always the same is only shifted: its std is 1.
        """
        exact = targets.double()
        self.mean.copy_(exact.mean(dim=0))
        std = exact.std(dim=0, correction=0)
        varies = (targets != targets[0]).any(dim=0)
        self.std.copy_(torch.where(varies, std, torch.ones_like(std)))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean
