"""UpdateMeter: how large gradient and update of each layer group are, at a step now and then."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from finetune import distributed
from finetune.distributed.sharding import local, norm
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.training.events import Callback


class UpdateMeter:
    """Measures the steps that callbacks ask for with `updates_every`, and changes no number.

    Other steps cost nothing. A measured step needs memory for a copy of the weights that train.
    measures_together: as all processes must where the model is sharded, whoever has the callbacks.
    """

    def __init__(
        self, callbacks: Iterable[Callback] = (), *, measures_together: bool = False
    ) -> None:
        self._intervals = {callback.updates_every for callback in callbacks} - {0}
        if measures_together:
            self._intervals = set().union(*distributed.gathered_objects(self._intervals))
        self._measured: Tensor | None = None

    def take(self) -> Tensor | None:
        """Returns what the last step gave, once; None if it was not measured.

        [2, groups] float32 on the device: norm of the gradient, update-to-weight ratio.
        """
        measured = self._measured
        self._measured = None
        return measured

    def measuring(
        self, groups: LayerGroups, step: int, scaler: torch.amp.GradScaler | None
    ) -> AbstractContextManager[None]:
        """Measures what happens inside the block: clipping and the optimizer's step.

        The gradients are in place when it begins. step: of the epoch. scaler: the one whose factor
        the gradients have.
        """
        self._measured = None
        if not any(step % interval == 0 for interval in self._intervals):
            return nullcontext()
        return self._measuring(groups, scaler)

    @contextmanager
    def _measuring(
        self, groups: LayerGroups, scaler: torch.amp.GradScaler | None
    ) -> Iterator[None]:
        unit = torch.ones((), device=next(groups.model.parameters()).device)
        weights_by_group = [_weights_to_update(group) for group in groups]
        with torch.no_grad():
            # the scaler's factor, without waiting for the device
            factor = unit if scaler is None else scaler.scale(unit)
            gradients = []
            before = []
            for weights in weights_by_group:
                gradients.append(_norm(_gradients_of(weights), unit) / factor)
                before.append([weight.detach().clone() for weight in weights])
        yield
        with torch.no_grad():
            ratios = []
            for weights, old_weights in zip(weights_by_group, before, strict=True):
                size = _norm(old_weights, unit)
                if weights:
                    # now they are the updates, negated
                    torch._foreach_sub_([*map(local, old_weights)], [*map(local, weights)])
                ratios.append(_norm(old_weights, unit) / size)
            self._measured = torch.stack(gradients + ratios).view(2, -1)


def _weights_to_update(group: LayerGroup) -> list[Tensor]:
    """The parameters that the optimizer will change: those with a gradient; none if frozen."""
    if group.frozen:
        return []
    return [weight for weight in group.parameters.values() if weight.grad is not None]


def _gradients_of(weights: Iterable[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _norm(tensors: list[Tensor], unit: Tensor) -> Tensor:
    """The norm over all tensors, in float32; NaN if there are none. unit: 1.0 on their device."""
    if not tensors:
        return unit * torch.nan
    return norm(tensors).to(unit)
