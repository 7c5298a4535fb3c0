"""One training step: forward, loss, backward, clip, update."""

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finetune import distributed
from finetune.data.loaders import Batch
from finetune.randomness import seed_everything
from finetune.training.averaging import Average
from finetune.training.divergence import DivergenceError
from finetune.training.evaluation import evaluate
from finetune.training.mixing import Mixer
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.setup import Loss, Setup, folded_norms, forward, in_float32
from finetune.training.update_meter import UpdateMeter


@dataclass(slots=True)
class TrainStep:
    """One update of the weights from a few batches, which count as one batch of their total size.

    net: the model, or a wrapper around it that averages gradients over processes. meter: measures
    the updates that callbacks want to see. average: of the weights, follows each update.
    """

    net: nn.Module
    setup: Setup
    meter: UpdateMeter = field(default_factory=UpdateMeter)
    average: Average = field(default_factory=Average)
    _loss: Loss = field(init=False)
    _mixer: Mixer = field(init=False)
    _folded: FoldedNorms | None = None  # what the first batch shows
    _parts: int = 1  # of a batch, where memory is short

    def __post_init__(self) -> None:
        settings = self.setup.settings
        self._loss = self.setup.training_loss
        self._mixer = Mixer(settings.mixup, settings.cutmix, self.setup.data.classes)

    def __call__(self, batches: Sequence[Batch], view: int | None, *number: int) -> Tensor:
        """Returns the mean loss as a detached scalar on the device, without waiting for it.

        view: of the images, see `DataLoaders.prepare`. number: of the epoch and the step; what
        dropout draws is a function of it. Where a batch is too large for the memory of the device
        it goes through in parts, whose gradients add up to the same.
        Raises DivergenceError before the update where looking is free, that is on a CPU.
        """
        mean = self._gradients(batches, view, number)
        # processes must agree on an error, so several of them look at the mean of all, later
        free = mean.device.type == "cpu" and distributed.world_size() == 1
        if free and not math.isfinite(mean.item()):
            self.setup.optimizer.zero_grad()
            raise DivergenceError(f"the training loss is {mean.item()}")
        optimizer, scaler = self.setup.optimizer, self.setup.scaler
        with self.meter.measuring(optimizer.groups, number[-1], scaler):
            self._clip()
            optimizer.step(scaler)
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
        self.average.update()
        return mean

    def validate(self) -> dict[str, float]:
        """What `evaluate` gives for the averaged weights, or else for the present ones.

        Empty without validation data.
        """
        if self.setup.data.valid is None:
            return {}
        with self.average.in_place():
            return evaluate(self.setup, self.setup.data.valid)

    def _gradients(
        self, batches: Sequence[Batch], view: int | None, number: Sequence[int]
    ) -> Tensor:
        """Puts the gradients in place, in as many parts as the memory asks for."""
        while True:
            # dropout draws from the global generators; an attempt that failed must not count
            seed_everything(self.setup.data.seed, "step", *number, distributed.rank())
            try:
                return self._accumulate(batches, view)
            except torch.OutOfMemoryError:
                # BatchNorm in train mode can't do with parts of one example
                if distributed.world_size() > 1 or 4 * self._parts > max(map(len, batches)):
                    raise
            # only here, outside of the handler, is what the error kept alive free again
            self._parts *= 2
            self.setup.optimizer.zero_grad()
            if self.setup.runtime.device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(
                f"the device's memory is too small for a batch of {len(batches[0])}: it goes "
                f"through in {self._parts} parts now, which gives the same gradients but for "
                "BatchNorm layers in train mode; a smaller batch_size= would be faster",
                stacklevel=2,
            )

    def _accumulate(self, batches: Sequence[Batch], view: int | None) -> Tensor:
        device, whole = self.setup.runtime.device, len(batches) == 1 and self._parts == 1
        examples = 0 if whole else sum(map(len, batches))
        losses = []
        for i, raw in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self._no_sync():
                batch = self._mixer(self.setup.data.prepare(raw.to(device), view))
                for part in batch.split(self._parts) if self._parts > 1 else [batch]:
                    losses.append(self._backward(part, 1.0 if whole else len(part) / examples))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float) -> Tensor:
        if self._folded is None:
            self._folded = folded_norms(self.setup, batch.inputs, training=True)
        with self.setup.runtime.autocast(), self._folded.active():
            outputs = forward(self.net, batch.inputs)
        loss = self._loss(in_float32(outputs), batch.targets)
        loss = loss if weight == 1 else loss * weight
        (loss if self.setup.scaler is None else self.setup.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _clip(self) -> None:
        if self.setup.settings.clip_norm is None:
            return
        if self.setup.scaler is not None:
            self.setup.optimizer.unscale(self.setup.scaler)
        parameters = (p for g in self.setup.optimizer.groups for p in g.parameters.values())
        torch.nn.utils.clip_grad_norm_(parameters, self.setup.settings.clip_norm)

    def _no_sync(self) -> Any:
        net = self.net
        return net.no_sync() if isinstance(net, DistributedDataParallel) else nullcontext()
