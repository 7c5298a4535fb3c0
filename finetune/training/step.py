"""One training step: forward, loss, backward, clip, update."""

import math
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
from finetune.tasks import Loss
from finetune.training.averaging import Average
from finetune.training.divergence import DivergenceError
from finetune.training.evaluation import validate
from finetune.training.mixing import Mixer
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.setup import Setup, folded_norms, forward, in_float32
from finetune.training.update_meter import UpdateMeter
from finetune.wording import warn


@dataclass(slots=True)
class TrainStep:
    """One update of the weights from a few batches, which count as one batch of their total size.

    net: the model, or a wrapper around it that averages gradients over processes. seed: of what
    dropout and mixing draw; None is the data's. meter: measures the updates that callbacks want to
    see. average: of the weights; it follows each update.
    """

    net: nn.Module
    setup: Setup
    seed: int | None = None
    meter: UpdateMeter = field(default_factory=UpdateMeter)
    average: Average = field(default_factory=Average)
    _loss: Loss = field(init=False)
    _mixer: Mixer = field(init=False)
    _folded: FoldedNorms | None = None  # found with the first batch
    _batch_parts: int = 1  # how many a batch goes through in, where memory is short

    def __post_init__(self) -> None:
        settings = self.setup.settings
        if self.seed is None:
            self.seed = self.setup.data.seed
        self._loss = self.setup.training_loss
        self._mixer = Mixer(settings.mixup, settings.cutmix, self.setup.data.classes)

    def __call__(
        self, batches: Sequence[Batch], view: int | None, *, epoch: int, step: int
    ) -> Tensor:
        """Returns the mean loss as a detached scalar on the device, without waiting for it.

        view: of the examples, see `DataLoaders.prepare`. epoch, step: what dropout draws is a
        function of them and the seed. Where a batch is too large for the memory of the device it
        goes through in parts, whose gradients add up to the same.
        Raises DivergenceError before the update where looking is free, that is on a CPU.
        """
        mean_loss = self._compute_gradients(batches, view, epoch, step)
        # processes must agree on an error, so several of them look at the mean of all, later
        looking_is_free = mean_loss.device.type == "cpu" and distributed.world_size() == 1
        if looking_is_free and not math.isfinite(mean_loss.item()):
            self.setup.optimizer.zero_grad()
            raise DivergenceError(f"the training loss is {mean_loss.item()}")
        optimizer, scaler = self.setup.optimizer, self.setup.scaler
        with self.meter.measuring(optimizer.groups, step, scaler):
            self._clip()
            optimizer.step(scaler)
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
        self.average.update()
        return mean_loss

    def validate(self) -> dict[str, float]:
        """Loss and metrics of the averaged weights, or else of the present ones.

        Empty without validation data.
        """
        if self.setup.data.valid is None:
            return {}
        with self.average.in_place():
            return validate(self.setup)

    def _compute_gradients(
        self, batches: Sequence[Batch], view: int | None, epoch: int, step: int
    ) -> Tensor:
        """Puts the gradients in place, in as many parts as the memory asks for."""
        assert self.seed is not None
        while True:
            # dropout draws from the global generators; an attempt that failed must not count
            seed_everything(self.seed, "step", epoch, step, distributed.rank())
            try:
                return self._accumulate(batches, view)
            except torch.OutOfMemoryError:
                smallest_part = max(map(len, batches)) / (2 * self._batch_parts)
                # BatchNorm in train mode can't do with parts of one example
                if distributed.world_size() > 1 or smallest_part < 2:
                    raise
            # only here, outside of the handler, is what the error kept alive free again
            self._use_smaller_parts(len(batches[0]))

    def _use_smaller_parts(self, batch_size: int) -> None:
        self._batch_parts *= 2
        self.setup.optimizer.zero_grad()
        if self.setup.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        warn(
            f"the device's memory is too small for a batch of {batch_size}: it goes "
            f"through in {self._batch_parts} parts now, which gives the same gradients but for "
            "BatchNorm layers in train mode; a smaller batch_size= would be faster"
        )

    def _accumulate(self, batches: Sequence[Batch], view: int | None) -> Tensor:
        """The gradients of all batches, as of one batch of their total size."""
        device = self.setup.runtime.device
        # the usual case, in which no example needs a weight and nothing is summed up
        is_one_piece = len(batches) == 1 and self._batch_parts == 1
        example_count = 0 if is_one_piece else sum(map(len, batches))
        losses = []
        for number, raw_batch in enumerate(batches):
            is_last = number == len(batches) - 1
            # processes exchange gradients with the last batch only
            with nullcontext() if is_last else self._without_exchange():
                batch = self._mixer(self.setup.data.prepare(raw_batch.to(device), view))
                if is_one_piece:
                    return self._backward(batch, share=1.0)
                for part in batch.split(self._batch_parts):
                    losses.append(self._backward(part, share=len(part) / example_count))
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, *, share: float) -> Tensor:
        """Adds the gradients of a batch that has this share of all examples."""
        if self._folded is None:
            self._folded = folded_norms(
                self.setup.model, self.setup.runtime, batch.inputs, training=True
            )
        with self.setup.runtime.autocast(), self._folded.active():
            outputs = forward(self.net, batch.inputs)
        loss = self._loss(in_float32(outputs), batch.targets)
        if share != 1:
            loss = loss * share
        scaled_loss = loss
        if self.setup.scaler is not None:
            scaled_loss = self.setup.scaler.scale(loss)
        scaled_loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _clip(self) -> None:
        if self.setup.settings.clip_norm is None:
            return
        if self.setup.scaler is not None:
            self.setup.optimizer.unscale(self.setup.scaler)
        parameters: list[Tensor] = []
        for group in self.setup.optimizer.groups:
            parameters.extend(group.parameters.values())
        torch.nn.utils.clip_grad_norm_(parameters, self.setup.settings.clip_norm)

    def _without_exchange(self) -> Any:
        if isinstance(self.net, DistributedDataParallel):
            return self.net.no_sync()
        return nullcontext()
