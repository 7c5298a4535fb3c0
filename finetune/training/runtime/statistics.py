"""Running statistics move in the forward pass, once, also where it is run again."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from finetune.models.normalisation import has_running_statistics


class StillStatistics:
    """Keeps the running statistics of a model still while a backward pass runs.

    Where activations are not kept but computed again (gradient checkpointing, ours or the user's),
    a norm in train mode sees each batch twice, and would move its statistics twice. The first
    backward pass shows whether the model does so; if not, the others cost nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers: list[Tensor] = []
        for module in model.modules():
            if has_running_statistics(module):
                self._buffers.extend(module.buffers(recurse=False))
        self._is_needed = bool(self._buffers)
        self._is_known = False

    def during_backward(self) -> AbstractContextManager[None]:
        """Put it around a backward pass."""
        return self._kept_still() if self._is_needed else nullcontext()

    @contextmanager
    def _kept_still(self) -> Iterator[None]:
        before = self._copies()
        yield
        if not self._is_known:
            unmoved = map(torch.equal, self._buffers, before)
            self._is_needed = not all(unmoved)
            self._is_known = True
        if self._is_needed:
            self._put_back(before)

    @contextmanager
    def unmoved(self) -> Iterator[None]:
        """Put it around a forward pass that sees a batch for the second time."""
        before = self._copies()
        yield
        self._put_back(before)

    def _copies(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def _put_back(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.copy_(value)
