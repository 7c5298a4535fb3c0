"""MixUp, CutMix and label smoothing: what a training batch and its loss become; validation's don't.

Each image is mixed with the one before it in its batch, and the targets in the same proportion
(Zhang et al. 2018; Yun et al. 2019). What is drawn comes from torch's global generators, which
the step has seeded, so that it is a function of the seed and the step's number.
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

_Loss: TypeAlias = Callable[[Any, Any], Tensor]


class Mixer:
    """What mixup= and cutmix= make of a batch on the device; with both, one of them at random.

    mixup, cutmix: alpha of Beta(alpha, alpha), from which the share of an image is drawn, once
    for a batch; 0 for none. classes: to make probabilities [B, C] of class numbers [B]; float
    targets are mixed as they are.
    """

    def __init__(self, mixup: float, cutmix: float, classes: Sequence[str] | None) -> None:
        self.classes = classes
        self._names = " and ".join(
            name for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha
        )
        self._images_only = bool(cutmix)
        self._transform = _transform(mixup, cutmix) if self._names else None

    def __call__(self, batch: Batch) -> Batch:
        """Raises ValueError for inputs or targets that can't be mixed."""
        if self._transform is None:
            return batch
        inputs = self._checked(batch.inputs)
        targets = self._probabilities(batch.targets)
        # torchvision takes images and [B, C]; to mix whole examples the shape does not matter
        images = inputs if inputs.ndim == 4 else inputs.reshape(len(inputs), 1, 1, -1)
        mixed, shares = self._transform(images, targets.reshape(len(targets), -1))
        shaped = mixed.reshape(inputs.shape), shares.reshape(targets.shape)
        return replace(batch, inputs=shaped[0], targets=shaped[1])

    def _checked(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Tensor):
            kind = type(inputs).__name__
            raise ValueError(f"{self._names} takes one tensor of inputs, the model gets a {kind}")
        if not inputs.is_floating_point():
            raise ValueError(f"{self._names} takes inputs of floats, the model gets {inputs.dtype}")
        if self._images_only and inputs.ndim != 4:
            raise ValueError(
                f"cutmix takes images [B, 3, H, W], the model gets {list(inputs.shape)}; "
                "mixup takes any shape"
            )
        return inputs

    def _probabilities(self, targets: Any) -> Tensor:
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


def _transform(mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from torchvision.transforms import v2  # takes its time to import

    both = [kind(alpha=a) for kind, a in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if a]
    return both[0] if len(both) == 1 else v2.RandomChoice(both)  # type: ignore[no-any-return]


def training_loss(loss: _Loss, label_smoothing: float, *, mixes: bool) -> _Loss:
    """The loss of training: the given one, unless it must smooth, or explain a failure.

    mixes: whether targets are mixed. Raises ValueError for a loss that can't smooth.
    """
    smooth = _smoothed(loss, label_smoothing) if label_smoothing else loss
    return _explained(smooth, loss) if mixes else smooth


def _smoothed(loss: _Loss, amount: float) -> _Loss:
    if loss is cross_entropy:
        return partial(cross_entropy, label_smoothing=amount)
    if not isinstance(loss, nn.CrossEntropyLoss):
        raise ValueError(
            "label_smoothing= is for nn.functional.cross_entropy and nn.CrossEntropyLoss, the loss "
            f"is {_name(loss)}; put the smoothing into the loss and leave label_smoothing= out"
        )
    if loss.label_smoothing:
        raise ValueError(
            f"label_smoothing={amount} was given, and the loss has {loss.label_smoothing} of its "
            "own; leave one of them out"
        )
    own = copy.copy(loss)
    own.label_smoothing = amount
    return own


def _explained(loss: _Loss, given: _Loss) -> _Loss:
    def of_mixed(outputs: Any, targets: Any) -> Tensor:
        try:
            return loss(outputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the loss {_name(given)} failed on targets {list(targets.shape)} that mixup= or "
                f"cutmix= made; it must take floats, as nn.functional.cross_entropy does: {error}"
            ) from error

    return of_mixed


def _name(loss: _Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
