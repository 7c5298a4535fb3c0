"""One training step: forward, loss, backward, clip, update."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune import distributed, turns
from finetune.data.loaders import Batch
from finetune.distributed import Averaged, Share
from finetune.distributed.sharding import clip_gradients, is_sharded, local
from finetune.randomness import seed_everything
from finetune.tasks import Loss, LossWeight, batch_loss
from finetune.training.averaging import Average
from finetune.training.divergence import DivergenceError
from finetune.training.explained import check_output_count, explain_batch_of_one
from finetune.training.loss_state import unmoved_buffers
from finetune.training.mixing import Mixer
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.runtime.statistics import StillStatistics
from finetune.training.setup import Setup, folded_norms, forward, in_float32
from finetune.training.update_meter import UpdateMeter
from finetune.training.whole_batch import WholeBatch, filled
from finetune.wording import warn

_NO_EXAMPLES = "the training loader gave batches without examples"


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
    _loss_module: nn.Module | None = field(init=False)
    _loss_weight: LossWeight = field(init=False)
    _mixer: Mixer = field(init=False)
    _still: StillStatistics = field(init=False)
    _outputs_are_checked: bool = False  # with the first batch
    _folded: FoldedNorms | None = None  # found with the first batch
    _batch_parts: int = 1  # how many a batch goes through in, where memory is short

    def __post_init__(self) -> None:
        settings = self.setup.settings
        if self.seed is None:
            self.seed = self.setup.data.seed
        self._loss = self.setup.training_loss
        self._loss_weight = self.setup.loss_weight
        self._still = StillStatistics(self.setup.model)
        self._loss_module = self.setup.optimizer.groups.loss_module
        if self._loss_module is not None:
            distributed.share_weights(self._loss_module)
        self._mixer = Mixer(settings.mixup, settings.cutmix, self.setup.data.classes)

    def __call__(
        self, batches: Sequence[Batch], view: int | None, *, epoch: int, step: int
    ) -> Tensor | None:
        """Returns the mean loss as a detached scalar on the device, without waiting for it.

        None where no target counts, because the loss ignores them all: nothing moves then.

        view: of the examples, see `DataLoaders.prepare`. epoch, step: what dropout draws is a
        function of them and the seed. Where a batch is too large for the memory of the device it
        goes through in parts, whose gradients add up to the same.
        Raises DivergenceError before the update where looking is free, that is on a CPU.
        """
        if self._nothing_counts(batches):
            return None
        with turns.alone():
            return self._step(batches, view, epoch, step)

    def _step(self, batches: Sequence[Batch], view: int | None, epoch: int, step: int) -> Tensor:
        mean_loss = self._compute_gradients(batches, view, epoch, step)
        self._exchange_gradients_of_loss()
        if self._loss_module is not None:
            distributed.share_moving_buffers(self._loss_module)
        # processes must agree on an error, so several of them look at the mean of all, later
        looking_is_free = mean_loss.device.type == "cpu" and distributed.world_size() == 1
        if looking_is_free and not math.isfinite(mean_loss.item()):
            self.setup.optimizer.zero_grad()
            raise DivergenceError(f"the training loss is {mean_loss.item()}")
        optimizer, scaler = self.setup.optimizer, self.setup.scaler
        with self.meter.measuring(optimizer.groups, step, scaler):
            self._clip()
            optimizer.step(scaler, partial(self._gradients_again, batches, view, epoch, step))
        if scaler is not None:
            scaler.update()
        optimizer.zero_grad()
        self.average.update()
        return mean_loss

    def _gradients_again(
        self, batches: Sequence[Batch], view: int | None, epoch: int, step: int
    ) -> Tensor:
        """The same gradients at other weights; running statistics have seen the batch already."""
        self.setup.optimizer.zero_grad()
        with torch.enable_grad(), self._still.unmoved(), unmoved_buffers(self._loss_module):
            loss = self._compute_gradients(batches, view, epoch, step)
        self._exchange_gradients_of_loss()
        self._clip()
        return loss

    def evaluating(self) -> AbstractContextManager[None]:
        """Gives the model the weights to be judged by inside of the block.

        These are the average, or what the optimizer evaluates, or else those that train.
        """
        if self.average.decay is not None:
            return self.average.in_place()
        return self.setup.optimizer.weights.evaluating()

    def _nothing_counts(self, batches: Sequence[Batch]) -> bool:
        """Whether the loss ignores all targets of all batches, in all processes."""
        weight = self._loss_weight
        several_processes = distributed.world_size() > 1
        if not several_processes and weight.first_counts(batches[0].targets):
            return False
        # to ask the others takes time, so it is done only where targets are meant to be ignored
        if not weight.is_of_classes or (several_processes and not weight.is_uneven):
            return False
        may_count = any(self._may_count(batch.targets) for batch in batches)
        return not distributed.any_process(may_count)

    def _may_count(self, targets: Any) -> bool:
        """Whether a target of a batch counts, or might, where to look would take too long."""
        if self._loss_weight.first_counts(targets):
            return True
        # targets are where the loader made them; the host has to wait for those of an accelerator,
        # which is worth it only where the caller asked that targets be ignored or weighed
        is_on_accelerator = isinstance(targets, Tensor) and targets.device.type != "cpu"
        if is_on_accelerator and not self._loss_weight.is_uneven:
            return True
        return bool(self._loss_weight.of_batch(targets, examples=1) > 0)

    def _compute_gradients(
        self, batches: Sequence[Batch], view: int | None, epoch: int, step: int
    ) -> Tensor:
        """Puts the gradients in place, in as many parts as the memory asks for."""
        assert self.seed is not None
        while True:
            # dropout draws from the global generators; an attempt that failed must not count. All
            # processes draw alike, see `WholeBatch`
            seed_everything(self.seed, "step", epoch, step, 0)
            try:
                if distributed.world_size() > 1:
                    return self._accumulate_shares(batches, view)
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
        # the usual case, in which no example needs a weight and nothing is summed up
        is_one_piece = len(batches) == 1 and self._batch_parts == 1
        if is_one_piece:
            return self._backward(self._prepared(batches[0], view), share=self._share(1, 1))
        count = sum(map(len, batches))
        losses: list[Tensor] = []
        weights: list[Tensor | float] = []
        for raw_batch in batches:
            for part in self._prepared(raw_batch, view).split(self._batch_parts):
                if not len(part):
                    continue
                weight = self._loss_weight.of_batch(part.targets, len(part))
                losses.append(self._backward(part, share=self._share(weight, count)))
                weights.append(weight)
        if not losses:
            raise ValueError(_NO_EXAMPLES)
        return self._rescaled(torch.stack(losses).sum(), weights, count)

    def _accumulate_shares(self, batches: Sequence[Batch], view: int | None) -> Tensor:
        """As `_accumulate`, where this process has a share of each batch.

        The loss is such that its mean over the processes is that of all their examples.
        """
        shares = [distributed.share_of(len(raw_batch)) for raw_batch in batches]
        # of a process on average, so that with even shares a loss counts as it is
        count = sum(share.count for share in shares) / distributed.world_size()
        if not count:
            raise ValueError(_NO_EXAMPLES)
        losses: list[Tensor] = []
        weights: list[Tensor | float] = []
        for number, (raw_batch, share) in enumerate(zip(batches, shares, strict=True)):
            is_last = number == len(batches) - 1
            batch = self._prepared(filled(raw_batch, share), view, share)
            weight: Tensor | float = 0
            if share.examples:
                weight = self._loss_weight.of_batch(batch.targets, len(batch))
            # torch.compile has no room for such a context
            whole = nullcontext() if self.setup.runtime.compile else WholeBatch(share)
            # processes exchange gradients with the last batch only
            with nullcontext() if is_last else self._without_exchange(), whole:
                losses.append(self._backward(batch, share=self._share(weight, count)))
            weights.append(weight)
        if isinstance(self.net, Averaged):
            self.net.end_step()
        return self._rescaled(torch.stack(losses).sum(), weights, count)

    def _prepared(self, raw_batch: Batch, view: int | None, share: Share | None = None) -> Batch:
        """A batch of the loader as the model gets it, on the device; of several, this process's."""
        on_device = raw_batch.to(self.setup.runtime.device)
        return self._mixer(self.setup.data.prepare(on_device, view), share)

    def _share(self, weight: Tensor | float, count: float) -> Tensor | float:
        """What the loss of a part is multiplied with. count: of the step's examples."""
        if self._loss_weight.is_sum:
            return float(distributed.world_size())  # processes exchange means
        return weight / count

    def _rescaled(self, loss: Tensor, weights: Sequence[Tensor | float], count: float) -> Tensor:
        """The loss and the gradients as if each part had had its share of all weights.

        Each had its weight over `count`, the examples, because all weights are known only at the
        end. Where every example weighs 1 this changes nothing, to the bit.
        """
        several_processes = distributed.world_size() > 1
        # all examples weigh 1 in every process, and the count is theirs
        weighs_evenly = several_processes and not self._loss_weight.is_of_classes
        if self._loss_weight.is_sum or weighs_evenly:
            return loss
        total = sum(weights)
        if not several_processes and total == count and not isinstance(total, Tensor):
            return loss
        weight_sum = torch.as_tensor(total, dtype=torch.float32, device=loss.device)
        if several_processes:
            # a mean over processes, as of the gradients
            weight_sum = distributed.total(weight_sum) / distributed.world_size()
        factor = torch.where(weight_sum > 0, count / weight_sum, 0)
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        torch._foreach_mul_(list(map(local, gradients)), factor)
        return loss * factor

    def _backward(self, batch: Batch, *, share: Tensor | float) -> Tensor:
        """Adds the gradients of a batch, times this share."""
        if self._folded is None:
            self._folded = folded_norms(
                self.setup.model, self.setup.runtime, batch.inputs, training=True
            )
        try:
            with self.setup.runtime.autocast(), self._folded.active():
                outputs = forward(self.net, batch.inputs)
        except ValueError as error:
            explain_batch_of_one(error)
            raise
        if not self._outputs_are_checked:
            check_output_count(outputs, self.setup.data.classes, self._loss_weight)
            self._outputs_are_checked = True
        loss = batch_loss(self._loss, in_float32(outputs), batch.targets)
        if isinstance(share, Tensor) or share == 0:
            # the mean over no target is NaN, and counts nothing
            has_weight = torch.as_tensor(share, device=loss.device) > 0
            loss = torch.where(has_weight, loss * share, 0)
        elif share != 1:
            loss = loss * share
        scaled_loss = loss
        if self.setup.scaler is not None:
            scaled_loss = self.setup.scaler.scale(loss)
        # activations that are computed again would move running statistics again
        with self._still.during_backward():
            scaled_loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _clip(self) -> None:
        if self.setup.settings.clip_norm is None:
            return
        # the norm is that of the gradients themselves, not of what the scaler made of them
        if self.setup.scaler is not None:
            self.setup.optimizer.unscale(self.setup.scaler)
        clip_norm = self.setup.settings.clip_norm
        if is_sharded(self.setup.model):
            clip_gradients(self._parameters(), clip_norm)
        else:
            torch.nn.utils.clip_grad_norm_(self._parameters(), clip_norm)

    def _parameters(self) -> list[Tensor]:
        parameters: list[Tensor] = []
        for group in self.setup.optimizer.groups.trained_groups:
            parameters.extend(group.parameters.values())
        return parameters

    def _exchange_gradients_of_loss(self) -> None:
        """Averages over all processes what the wrapper around the model does not see."""
        loss_group = self.setup.optimizer.groups.loss_group
        if loss_group is not None:
            distributed.average_gradients(loss_group.parameters.values())

    def _without_exchange(self) -> AbstractContextManager[None]:
        return self.net.without_exchange() if isinstance(self.net, Averaged) else nullcontext()
