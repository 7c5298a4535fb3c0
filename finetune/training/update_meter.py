"""UpdateMeter: how large gradient and update of each layer group are, at a step now and then."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from finetune.models.layer_groups import LayerGroup, LayerGroups
from finetune.training.events import Callback


class UpdateMeter:
    """Measures the steps that callbacks ask for with `updates_every`, and changes no number.

    Between measured steps it does nothing; at one of them the weights are there twice.
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._every = {callback.updates_every for callback in callbacks} - {0}
        self._taken: Tensor | None = None

    def take(self) -> Tensor | None:
        """What the last step gave, once; None if it was not measured.

        [2, groups] float32 on the device: norm of the gradient, update-to-weight ratio.
        """
        taken, self._taken = self._taken, None
        return taken

    @contextmanager
    def measuring(
        self, groups: LayerGroups, step: int, scaler: torch.amp.GradScaler | None
    ) -> Iterator[None]:
        """Around clipping and the optimizer's step, with the gradients in place.

        step: of the epoch. scaler: whose factor the gradients have.
        """
        self._taken = None
        if not any(step % every == 0 for every in self._every):
            yield
            return
        one = torch.ones((), device=next(groups.model.parameters()).device)
        moving = [_moving(group) for group in groups]
        with torch.no_grad():
            # the scaler's factor, without waiting for the device
            factor = one if scaler is None else scaler.scale(one)
            gradients = [
                _norm([g for p in own if (g := p.grad) is not None], one) / factor for own in moving
            ]
            before = [[p.detach().clone() for p in own] for own in moving]
        yield
        with torch.no_grad():
            sizes = [_norm(old, one) for old in before]
            for now, old in zip(moving, before, strict=True):
                if now:
                    torch._foreach_sub_(old, now)
            ratios = [_norm(old, one) / size for old, size in zip(before, sizes, strict=True)]
            self._taken = torch.stack(gradients + ratios).view(2, -1)


def _moving(group: LayerGroup) -> list[Tensor]:
    """What the optimizer will change: parameters with a gradient, none of a frozen group."""
    return [] if group.frozen else [p for p in group.parameters.values() if p.grad is not None]


def _norm(tensors: list[Tensor], one: Tensor) -> Tensor:
    """Over all of them, in float32; NaN of none. one: a number on their device."""
    if not tensors:
        return one * torch.nan
    norms = [norm.to(one) for norm in torch._foreach_norm(tensors)]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return whole
