"""LossWeight: what the loss of a batch is a mean over, so that batches add up to their whole.

    loss of everything = sum of (weight of a batch * loss of the batch) / sum of the weights

Most losses are means over the examples. torch's cross-entropies are means over what their targets
weigh: a target that is ignored weighs nothing, and another one what its class weighs.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.tasks.losses import Loss

_IGNORED = -100
"""The target that torch's cross-entropies ignore unless they are told another one."""

_CLASS_FUNCTIONS = (F.cross_entropy, F.nll_loss)
_CLASS_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)


@dataclass(frozen=True, slots=True)
class LossWeight:
    """How much the loss of a batch counts beside those of other batches.

    is_sum: the loss is a sum (reduction="sum"), so that losses of batches add up. is_of_classes:
    the loss is a mean over targets that are class numbers, by `class_weights` [C] (None: all 1) and
    without those that are `ignore_index`; otherwise it is a mean over the examples, which is also
    so for a loss of the user's own.

    >>> import torch
    >>> weight = LossWeight.of(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0])))
    >>> weight.of_batch(torch.tensor([0, 1, 1, -100]), examples=4)
    11.0
    >>> LossWeight.of(F.mse_loss).of_batch(torch.zeros(4), examples=4)
    4
    """

    is_sum: bool = False
    is_of_classes: bool = False
    class_weights: Tensor | None = None
    ignore_index: int = _IGNORED

    @classmethod
    def of(cls, loss: Loss) -> "LossWeight":
        """Reads it from the options of a loss: of a module, a function, or a partial of one.

        Raises ValueError for reduction="none", which gives no single number to minimise.
        """
        options: dict[str, Any] = {}
        is_of_classes = loss in _CLASS_FUNCTIONS
        if isinstance(loss, partial):
            options = loss.keywords
            is_of_classes = loss.func in _CLASS_FUNCTIONS
        elif isinstance(loss, nn.Module):
            options = {name: getattr(loss, name, None) for name in ("reduction", "weight")}
            # a subclass with a forward of its own may be a mean over something else
            is_of_classes = type(loss).forward in [kind.forward for kind in _CLASS_MODULES]
            if is_of_classes:
                options["ignore_index"] = loss.ignore_index
        if options.get("reduction") == "none":
            raise ValueError(
                "the loss has reduction='none' and gives a number for each example, but one is "
                "minimised; pass reduction='mean', or a function that makes one number of them"
            )
        return cls(
            is_sum=options.get("reduction") == "sum",
            is_of_classes=is_of_classes,
            class_weights=options.get("weight") if is_of_classes else None,
            ignore_index=options.get("ignore_index", _IGNORED),
        )

    @property
    def is_uneven(self) -> bool:
        """Whether the caller asked for weights, or for a target that is ignored."""
        return self.class_weights is not None or self.ignore_index != _IGNORED

    def first_counts(self, targets: Any) -> bool:
        """Whether the first target surely counts; asks targets on the host alone.

        In nearly every batch it does, and to see it takes a tenth of the time of `of_batch`.
        """
        is_on_host = isinstance(targets, Tensor) and targets.is_cpu
        if not is_on_host or self.class_weights is not None or not targets.numel():
            return False
        return bool(targets.flatten()[0].item() != self.ignore_index)

    def of_examples(self, targets: Tensor) -> Tensor:
        """How much each example counts, [N]; targets: [N] class numbers, or any others."""
        if not self.is_of_classes or targets.is_floating_point():
            return torch.ones(len(targets), device=targets.device)
        is_counted = targets != self.ignore_index
        if self.class_weights is None:
            return is_counted.float()
        classes = targets.clamp(0, len(self.class_weights) - 1)
        return self.class_weights.to(targets.device)[classes] * is_counted

    def of_batch(self, targets: Any, examples: int) -> Tensor | float:
        """The weight of a batch, which is 0 if nothing in it counts.

        targets: as the loss gets them. examples: their number. For class numbers on an accelerator
        it is a scalar there, so that nothing waits for it; elsewhere it is a number. Probabilities
        of classes count by their examples, as in torch.
        """
        are_class_numbers = isinstance(targets, Tensor) and not targets.is_floating_point()
        if not self.is_of_classes or not are_class_numbers:
            return examples
        is_counted: Tensor = targets != self.ignore_index
        weight = is_counted.sum()
        if self.class_weights is not None:
            # what is no class is left to the loss, which raises an error
            classes = targets.clamp(0, len(self.class_weights) - 1)
            weights = self.class_weights.to(targets.device)[classes]
            weight = (weights * is_counted).sum()
        return weight.item() if weight.device.type == "cpu" else weight
