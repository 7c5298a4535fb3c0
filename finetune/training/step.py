"""One training step and one evaluation: forward, loss, backward, clip, update."""

import copy
import math
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finetune import distributed
from finetune.data.loaders import Batch, DataLoaders, EpochLoader
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.randomness import seed_everything
from finetune.training.averaging import Average
from finetune.training.divergence import DivergenceError
from finetune.training.folding import FoldedNorms
from finetune.training.mixing import Mixer, training_loss
from finetune.training.runtime import Runtime
from finetune.training.settings import StepSettings
from finetune.training.update_meter import UpdateMeter

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> mean loss over the batch, a scalar."""


def forward(model: nn.Module, inputs: Any) -> Any:
    """Calls the model with a tensor, the parts of a tuple, or the entries of a dict."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is trained, on what, and how; shared by the step, the loop and the rate finder."""

    model: nn.Module
    data: DataLoaders
    loss: Loss
    metrics: Mapping[str, Any]
    optimizer: GroupOptimizer
    runtime: Runtime
    settings: StepSettings
    scaler: torch.amp.GradScaler | None

    def __post_init__(self) -> None:
        _ = self.training_loss  # what can't be had is told here, not at the first step

    @property
    def training_loss(self) -> Loss:
        """What is minimised; `loss` itself where targets are neither smoothed nor mixed."""
        own = self.settings
        return training_loss(self.loss, own.label_smoothing, mixes=bool(own.mixup or own.cutmix))

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights; the last one of an epoch may have fewer batches."""
        return -(-len(self.data.train) // self.settings.accumulate)

    def copied(self, runtime: Runtime) -> "Setup":
        """To train on trial, without a trace in this one: its model, optimizer and loss are new."""
        groups = copy.deepcopy(self.optimizer.groups)
        values = [(dict(group.values), dict(group.base)) for group in groups]
        optimizer = GroupOptimizer(groups, self.optimizer.factory)
        for group, own in zip(groups, values, strict=True):
            group.values, group.base = own
        return replace(
            self,
            model=runtime.place(groups.model),
            loss=copy.deepcopy(self.loss),
            optimizer=optimizer,
            runtime=runtime,
            scaler=runtime.gradient_scaler(),
        )

    def weights_are_finite(self) -> bool:
        """Whether the last update left numbers behind; makes the host wait for the device."""
        groups = self.optimizer.groups
        weights = [p for g in groups if not g.frozen for p in g.parameters.values()]
        return bool(torch.stack([p.detach().isfinite().all() for p in weights]).all())


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

        view: of the pictures, see `DataLoaders.prepare`. number: of the epoch and the step; what
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
                if distributed.world_size() > 1 or 2 * self._parts > max(map(len, batches)):
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
        examples, device = sum(map(len, batches)), self.setup.runtime.device
        losses = []
        for i, raw in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self._no_sync():
                batch = self._mixer(self.setup.data.prepare(raw.to(device), view))
                for part in batch.split(self._parts) if self._parts > 1 else [batch]:
                    losses.append(self._backward(part, len(part) / examples))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, batch: Batch, weight: float) -> Tensor:
        if self._folded is None:
            self._folded = folded_norms(self.setup, batch.inputs, training=True)
        with self.setup.runtime.computing(), self._folded.active():
            outputs = forward(self.net, batch.inputs)
        loss = self._loss(_float32(outputs), batch.targets)
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


def folded_norms(setup: Setup, inputs: Any, *, training: bool) -> FoldedNorms:
    """Those that the runtime folds; the first inputs show which they are."""
    if not setup.runtime.fold or not isinstance(inputs, Tensor):
        return FoldedNorms([])
    return FoldedNorms.find(setup.model, inputs[:2], training=training)


def _float32(outputs: Any) -> Any:
    """The loss is computed in float32 whatever the model ran in."""
    half = isinstance(outputs, Tensor) and outputs.dtype in (torch.float16, torch.bfloat16)
    return outputs.float() if half else outputs


def run_through(
    setup: Setup, loader: EpochLoader, view: int | None = None
) -> Generator[tuple[Batch, Any], None, None]:
    """The evaluation's way: each batch as the model gets it, and its outputs in float32.

    view: of the pictures, see `DataLoaders.prepare`. The model is left in eval mode.
    """
    distributed.share_buffers(setup.model)
    setup.model.eval()
    folded: FoldedNorms | None = None
    for raw in loader.epoch(setup.data.seed, 0):
        if not len(raw):  # this process has no share of a short last batch
            continue
        with torch.no_grad():  # a tensor that a model keeps for later must be able to train
            batch = setup.data.prepare(raw.to(setup.runtime.device), view)
            folded = folded or folded_norms(setup, batch.inputs, training=False)
            with setup.runtime.computing(), folded.active():
                outputs = forward(setup.model, batch.inputs)
        yield batch, _float32(outputs)


@torch.no_grad()
def evaluate(setup: Setup, loader: EpochLoader) -> dict[str, float]:
    """ "loss", the mean over the loader's examples, and each metric, over all processes.

    The model is left in eval mode. Losses stay on the device until the end.
    """
    metrics = setup.metrics
    sums = torch.zeros(2, device=setup.runtime.device)  # loss, examples
    for metric in metrics.values():
        metric.reset()
    for batch, outputs in run_through(setup, loader):
        sums[0] += setup.loss(outputs, batch.targets) * len(batch)
        sums[1] += len(batch)
        for metric in metrics.values():
            metric.update(outputs, batch.targets)
    loss_sum, count = distributed.total(sums).tolist()
    results = {"loss": loss_sum / count if count else float("nan")}
    results.update({name: _scalar(name, metric.compute()) for name, metric in metrics.items()})
    return results


def _scalar(name: str, value: Any) -> float:
    try:
        return round(float(value), 7)  # what float32 knows
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} must give one number, got {value!r}") from error
