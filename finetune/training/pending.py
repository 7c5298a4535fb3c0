"""Pending: steps that are done, but whose numbers nobody has read from the device yet."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune import distributed
from finetune.training.events import GroupUpdates, StepEnd


@dataclass(slots=True)
class Pending:
    """Reading a loss makes the host wait for the device, so several are read together."""

    _steps: list[tuple[StepEnd, Tensor, Tensor | None]] = field(default_factory=list)

    def add(self, row: StepEnd, loss: Tensor, updates: Tensor | None = None) -> None:
        """row: still without loss. loss: scalar. updates: [2, groups], see `UpdateMeter`."""
        self._steps.append((row, loss, updates))

    def read(self) -> Iterator[StepEnd | GroupUpdates]:
        """The events of all these steps, in order, by one transfer of their losses.

        Losses are means over processes.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        losses = [loss for _, loss, _ in steps]
        values = [losses[0].item()]
        if len(losses) > 1 or distributed.world_size() > 1:
            values = (distributed.total(torch.stack(losses)) / distributed.world_size()).tolist()
        for (row, _, updates), value in zip(steps, values, strict=True):
            # dataclasses.replace takes four times as long, in every step
            rest = (row.lr, row.momentum, row.frozen)
            yield StepEnd(row.phase, row.epoch, row.step, value, *rest)
            if updates is not None:
                gradient, ratio = map(tuple, updates.tolist())
                yield GroupUpdates(row.phase, row.epoch, row.step, gradient, ratio)

    def clear(self) -> None:
        self._steps.clear()
