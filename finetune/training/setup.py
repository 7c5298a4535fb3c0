"""Setup: what is trained, on what, and how; and the forward pass of training and evaluation."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.loaders import DataLoaders
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.tasks import Loss
from finetune.training.mixing import training_loss
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.runtime.runtime import Runtime
from finetune.training.settings import StepSettings


@dataclass(frozen=True, slots=True)
class Setup:
    """What is trained, on what, and how; shared by the step, the loop and the rate finder."""

    model: nn.Module
    data: DataLoaders
    loss: Loss
    metrics: Mapping[str, Any]
    optimizer: GroupOptimizer
    runtime: Runtime
    settings: StepSettings
    scaler: torch.amp.GradScaler | None

    def __post_init__(self) -> None:
        _ = self.training_loss  # what can't be had is told here, not at the first step

    @property
    def training_loss(self) -> Loss:
        """What is minimised; `loss` itself where targets are neither smoothed nor mixed."""
        own = self.settings
        return training_loss(self.loss, own.label_smoothing, mixes=bool(own.mixup or own.cutmix))

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights; the last one of an epoch may have fewer batches."""
        return -(-len(self.data.train) // self.settings.accumulate)

    def copied(self, runtime: Runtime) -> "Setup":
        """To train on trial, without a trace in this one: its model, optimizer and loss are new."""
        groups = copy.deepcopy(self.optimizer.groups)
        values = [(dict(group.values), dict(group.base)) for group in groups]
        optimizer = GroupOptimizer(groups, self.optimizer.factory)
        for group, own in zip(groups, values, strict=True):
            group.values, group.base = own
        return replace(
            self,
            model=runtime.place(groups.model),
            loss=copy.deepcopy(self.loss),
            optimizer=optimizer,
            runtime=runtime,
            scaler=runtime.gradient_scaler(),
        )

    def weights_are_finite(self) -> bool:
        """Whether the last update left numbers behind; makes the host wait for the device."""
        groups = self.optimizer.groups
        weights = [p for g in groups if not g.frozen for p in g.parameters.values()]
        return bool(torch.stack([p.detach().isfinite().all() for p in weights]).all())


def forward(model: nn.Module, inputs: Any) -> Any:
    """Calls the model with a tensor, the parts of a tuple, or the entries of a dict."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def folded_norms(model: nn.Module, runtime: Runtime, inputs: Any, *, training: bool) -> FoldedNorms:
    """The norms that the runtime folds into convolutions; the first inputs show which they are."""
    if not runtime.fold or not isinstance(inputs, Tensor):
        return FoldedNorms([])
    return FoldedNorms.find(model, inputs[:2], training=training)


def in_float32(outputs: Any) -> Any:
    """The loss is computed in float32 whatever the model ran in."""
    half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
    return outputs.float() if half else outputs
