"""Setup: what is trained, on what, and how; and the forward pass of training and evaluation."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune import distributed
from finetune.data.loaders import DataLoaders
from finetune.distributed.sharding import is_sharded, local
from finetune.nested import map_tensors
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.tasks import Loss, LossWeight
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
        self.data.task.checked_loss(self.loss)
        # a loss that can't be smoothed or mixed is an error now, not at the first step
        _ = self.training_loss, self.loss_weight
        if self.scaler is not None and self.optimizer.needs_closure:
            raise ValueError(
                "an optimizer that needs a closure, such as SAM, can't train in fp16, whose "
                "gradients are scaled; use precision='bf16' or 'fp32'"
            )
        if self.settings.ema is not None and self.optimizer.weights:
            raise ValueError(
                f"ema={self.settings.ema} averages weights, which a schedule-free optimizer does "
                "by itself; leave ema out"
            )

    @property
    def training_loss(self) -> Loss:
        """The loss that is minimised: `loss` itself if targets are neither smoothed nor mixed."""
        settings = self.settings
        mixes = bool(settings.mixup or settings.cutmix)
        return training_loss(self.loss, settings.label_smoothing, mixes=mixes)

    @property
    def loss_weight(self) -> LossWeight:
        """What the loss of a batch is a mean over, smoothed or not."""
        return LossWeight.of(self.loss)

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights in an epoch; the last one may be of fewer batches."""
        return math.ceil(len(self.data.train) / self.settings.accumulate)

    def copied(self) -> "Setup":
        """A setup to train on trial: model, optimizer and loss are copies, and data are shared.

        Raises ValueError for a sharded model.
        """
        if is_sharded(self.model):
            raise ValueError(
                "what is only tried, by lr_find or for minutes=, is tried on a copy of the model, "
                "and sharding='full' has no room for one; name rates and epochs, such as those "
                "that suit a smaller model of the same family"
            )
        # together, because the groups hold the loss's parameters
        groups, loss = copy.deepcopy((self.optimizer.groups, self.loss))
        # a new optimizer sets the groups' values to its defaults
        values = [dict(group.values) for group in groups]
        base_values = [dict(group.base) for group in groups]
        optimizer = GroupOptimizer(groups, self.optimizer.factories)
        for group, group_values, group_base in zip(groups, values, base_values, strict=True):
            group.values = group_values
            group.base = group_base
        return replace(
            self,
            model=groups.model,
            loss=loss,
            optimizer=optimizer,
            scaler=self.runtime.gradient_scaler(),
        )

    def weights_are_finite(self) -> bool:
        """Whether all weights that are trained are finite; makes the host wait for the device.

        All processes ask together, as they do wherever the model is sharded.
        """
        are_finite = []
        for group in self.optimizer.groups.trained_groups:
            if group.frozen:
                continue
            for parameter in group.parameters.values():
                are_finite.append(local(parameter.detach()).isfinite().all())
        # stacked, so that the host waits once and not for every parameter
        all_finite = bool(torch.stack(are_finite).all())
        if not is_sharded(self.model):
            return all_finite
        return not distributed.any_process(not all_finite)


def forward(model: nn.Module, inputs: Any) -> Any:
    """Calls the model with a tensor, the elements of a tuple, or the entries of a dict."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def folded_norms(model: nn.Module, runtime: Runtime, inputs: Any, *, training: bool) -> FoldedNorms:
    """The norms that the runtime folds into convolutions.

    inputs: a batch; running the model on two of its examples shows which norms can be folded.
    """
    if not runtime.fold or not isinstance(inputs, Tensor):
        return FoldedNorms([])
    return FoldedNorms.find(model, inputs[:2], training=training)


def in_float32(outputs: Any) -> Any:
    """The outputs in float32, in which the loss is computed whatever the model ran in.

    outputs: a tensor, or a tuple, mapping or data class of tensors, which keeps its type.
    """
    return map_tensors(_float32_of_half, outputs)


def _float32_of_half(tensor: Tensor) -> Tensor:
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor
