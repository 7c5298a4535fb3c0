"""MixUp, CutMix and label smoothing: they change a training batch and its loss, never validation.

Each image is mixed with the one before it in its batch, and the targets in the same proportion
(Zhang et al. 2018; Yun et al. 2019). The random numbers come from torch's global generators, which
the step has seeded, so that they are a function of the seed and the step's number.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune.data.loaders import Batch
from finetune.distributed import Share

_Loss: TypeAlias = Callable[[Any, Any], Tensor]
_Transform: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Mixer:
    """Applies mixup= or cutmix= to a batch on the device; with both, one of them at random.

    mixup, cutmix: alpha of Beta(alpha, alpha), from which the share of an image is drawn, once
    for a batch; 0 for none. classes: to make probabilities [B, C] of class numbers [B]; float
    targets are mixed as they are.
    """

    def __init__(self, mixup: float, cutmix: float, classes: Sequence[str] | None) -> None:
        self.classes = classes
        names = []
        if mixup:
            names.append("mixup")
        if cutmix:
            names.append("cutmix")
        self._names = " and ".join(names)
        self._needs_images = cutmix > 0
        self._transform = _make_transform(mixup, cutmix)

    def __call__(self, batch: Batch, share: Share | None = None) -> Batch:
        """Raises ValueError for inputs or targets that can't be mixed.

        share: of several processes, whose examples are mixed with each other; they exchange them.
        A batch without a share of them, see `filled`, gets the first one.
        """
        if self._transform is None:
            return batch
        inputs = self._checked_inputs(batch.inputs)
        targets = self._float_targets(batch.targets)
        if share is not None:
            inputs, targets = share.whole(inputs), share.whole(targets)
        # torchvision takes images and [B, C]; to mix whole examples the shape does not matter
        images = inputs
        if inputs.ndim != 4:
            images = inputs.reshape(len(inputs), 1, 1, -1)
        mixed_images, mixed_targets = self._transform(images, targets.reshape(len(targets), -1))
        inputs, targets = mixed_images.reshape(inputs.shape), mixed_targets.reshape(targets.shape)
        if share is not None:
            rows = share.rows if share.examples else slice(1)
            inputs, targets = inputs[rows], targets[rows]
        return replace(batch, inputs=inputs, targets=targets)

    def _checked_inputs(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Tensor):
            kind = type(inputs).__name__
            raise ValueError(f"{self._names} takes one tensor of inputs, the model gets a {kind}")
        if not inputs.is_floating_point():
            raise ValueError(f"{self._names} takes inputs of floats, the model gets {inputs.dtype}")
        if self._needs_images and inputs.ndim != 4:
            raise ValueError(
                f"cutmix takes images [B, 3, H, W], the model gets {list(inputs.shape)}; "
                "mixup takes any shape"
            )
        return inputs

    def _float_targets(self, targets: Any) -> Tensor:
        """Float targets as they are; class numbers [B] as probabilities [B, C]."""
        if not isinstance(targets, Tensor):
            kind = type(targets).__name__
            raise ValueError(f"{self._names} takes one tensor of targets, the loss gets a {kind}")
        if targets.is_floating_point() and targets.ndim <= 2:
            return targets
        if targets.ndim != 1:
            raise ValueError(
                f"{self._names} takes class numbers [B] or floats [B] or [B, C] as targets, "
                f"got {targets.dtype} {list(targets.shape)}"
            )
        if self.classes is None:
            raise ValueError(
                f"{self._names} needs the number of classes; pass DataLoaders(..., classes=[...])"
            )
        return nn.functional.one_hot(targets.long(), len(self.classes)).float()


def _make_transform(mixup: float, cutmix: float) -> _Transform | None:
    """torchvision's transform; None where nothing is mixed."""
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2  # the import is slow

    if not cutmix:
        return v2.MixUp(alpha=mixup)  # type: ignore[no-any-return]
    if not mixup:
        return v2.CutMix(alpha=cutmix)  # type: ignore[no-any-return]
    return v2.RandomChoice([v2.MixUp(alpha=mixup), v2.CutMix(alpha=cutmix)])  # type: ignore[no-any-return]


def training_loss(loss: _Loss, label_smoothing: float, *, mixes: bool) -> _Loss:
    """The loss of training: the user's, with smoothed labels, and with its failures explained.

    mixes: whether targets are mixed, which not every loss can take; only then is an error of the
    loss explained. Raises ValueError for a loss that can't smooth.
    """
    name = _name_of(loss)
    if label_smoothing:
        loss = _with_smoothing(loss, label_smoothing)
    if mixes:
        loss = _with_explained_errors(loss, name)
    return loss


def _with_smoothing(loss: _Loss, label_smoothing: float) -> _Loss:
    if loss is cross_entropy:
        return partial(cross_entropy, label_smoothing=label_smoothing)
    if not isinstance(loss, nn.CrossEntropyLoss):
        raise ValueError(
            "label_smoothing= is for nn.functional.cross_entropy and nn.CrossEntropyLoss, the loss "
            f"is {_name_of(loss)}; put the smoothing into the loss and leave label_smoothing= out"
        )
    if loss.label_smoothing:
        raise ValueError(
            f"label_smoothing={label_smoothing} was given, and the loss has {loss.label_smoothing} "
            "of its own; leave one of them out"
        )
    smoothed = copy.copy(loss)
    smoothed.label_smoothing = label_smoothing
    return smoothed


def _with_explained_errors(loss: _Loss, name: str) -> _Loss:
    def loss_of_mixed_targets(outputs: Any, targets: Any) -> Tensor:
        try:
            return loss(outputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the loss {name} failed on targets {list(targets.shape)} that mixup= or "
                f"cutmix= made; it must take floats, as nn.functional.cross_entropy does: {error}"
            ) from error

    return loss_of_mixed_targets


def _name_of(loss: _Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
