"""Pending: steps that are done, but whose losses are still on the device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune import distributed
from finetune.training.events import EmptyStep, GroupUpdates, StepEnd


@dataclass(slots=True)
class Pending:
    """Collects losses to read several at once: each reading makes the host wait for the device."""

    _steps: list[tuple[StepEnd, Tensor | None, Tensor | None]] = field(default_factory=list)

    def add(self, row: StepEnd, loss: Tensor | None, updates: Tensor | None = None) -> None:
        """Adds a step.

        row: still without loss. loss: scalar; None for an `EmptyStep`. updates: see
        `UpdateMeter.take`.
        """
        self._steps.append((row, loss, updates))

    def read(self) -> Iterator[StepEnd | GroupUpdates]:
        """Yields the events of the collected steps, in order; losses are means over processes."""
        steps = self._steps
        self._steps = []
        if not steps:
            return
        values = iter(_read_losses([loss for _, loss, _ in steps if loss is not None]))
        for row, loss, updates in steps:
            kind, value = (EmptyStep, math.nan) if loss is None else (StepEnd, next(values))
            # dataclasses.replace takes four times as long, in every step
            yield kind(
                row.phase,
                row.epoch,
                row.step,
                value,
                row.lr,
                row.momentum,
                row.frozen,
                row.epoch_number,
            )
            if updates is not None:
                gradient, ratio = updates.tolist()
                yield GroupUpdates(row.phase, row.epoch, row.step, tuple(gradient), tuple(ratio))

    def clear(self) -> None:
        """Forgets the steps whose losses nobody has read."""
        self._steps.clear()


def _read_losses(losses: list[Tensor]) -> list[float]:
    """Means over processes, by one transfer from the device."""
    if not losses:
        return []
    processes = distributed.world_size()
    if len(losses) == 1 and processes == 1:
        return [losses[0].item()]
    values: list[float] = (distributed.total(torch.stack(losses)) / processes).tolist()
    return values
