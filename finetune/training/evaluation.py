"""One evaluation: every batch through the model, the loss and the metrics."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from finetune import distributed, turns
from finetune.data.loaders import Batch, EpochLoader, InputPipeline
from finetune.distributed.sharding import is_sharded
from finetune.distributed.together import together
from finetune.models.loss_group import evaluation_loss, module_of
from finetune.nested import main_output, main_target
from finetune.tasks import Loss, LossWeight, batch_loss
from finetune.tasks.metric_adapters import fill_empty_states, takes_whole_outputs
from finetune.training.explained import check_output_count
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup, folded_norms, forward, in_float32
from finetune.training.whole_batch import filled

_DIGITS = 7
"""Significant digits of a printed metric: those that float32 knows, in any unit."""


def run_through(
    model: nn.Module,
    loader: EpochLoader,
    pipeline: InputPipeline,
    runtime: Runtime,
    *,
    view: int | None = None,
) -> Generator[tuple[Batch, Any], None, None]:
    """Each batch as the model gets it, and the model's outputs in float32.

    model: in eval mode. view: of the examples, see `InputPipeline.prepare`. Asks nothing of other
    processes, so that one of them may do it alone, unless the model is sharded.
    """
    if is_sharded(model):
        yield from _run_through_together(model, loader, pipeline, runtime, view)
        return
    folded: FoldedNorms | None = None
    for raw_batch in loader.epoch(pipeline.seed, 0):
        if not len(raw_batch):  # this process has no share of a short last batch
            continue
        # not inference mode: what a model keeps for later must be able to train
        with torch.no_grad():
            batch = pipeline.prepare(raw_batch.to(runtime.device), view)
        # a step in another thread would take the weights that autocast converts here without
        # gradients
        with turns.shared(), torch.no_grad():
            if folded is None:
                folded = folded_norms(model, runtime, batch.inputs, training=False)
            with runtime.autocast(), folded.active():
                outputs = forward(model, batch.inputs)
        yield batch, in_float32(outputs)


def pass_of_all(model: nn.Module) -> AbstractContextManager[None]:
    """Put it around passes through a model, in which all processes take part if it is sharded."""
    return together("a pass through a sharded model") if is_sharded(model) else nullcontext()


def _run_through_together(
    model: nn.Module,
    loader: EpochLoader,
    pipeline: InputPipeline,
    runtime: Runtime,
    view: int | None,
) -> Generator[tuple[Batch, Any], None, None]:
    """As `run_through`, where the weights come together in all processes, or in none."""
    with pass_of_all(model):
        pass  # all have come; none is watched while it does with the outputs what it likes
    for raw_batch in loader.epoch(pipeline.seed, 0):
        share = distributed.share_of(len(raw_batch))
        if not share.count:
            continue
        with torch.no_grad():
            batch = pipeline.prepare(filled(raw_batch, share).to(runtime.device), view)
            with runtime.autocast():
                outputs = forward(model, batch.inputs)
        if share.examples:
            yield batch, in_float32(outputs)


class MeanLoss:
    """The loss of all batches together, which does not depend on how examples are batched.

    Sums stay on the device until the end, so that nothing waits for it. The loss of no example is
    NaN. A loss that is a module is in eval mode, and its buffers stay as they are.
    """

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss: Loss = evaluation_loss(loss)
        self._weight = LossWeight.of(loss)
        self._loss_sum = torch.zeros((), device=device)
        self._weight_sum = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self, outputs: Any, batch: Batch) -> None:
        """Adds a batch, with the outputs for it in float32."""
        loss = batch_loss(self._loss, outputs, batch.targets)
        weight = self._weight.of_batch(batch.targets, len(batch))
        if self._weight.is_sum:
            self._loss_sum += loss
        elif isinstance(weight, Tensor):
            # the mean over no target is NaN, and counts nothing
            self._loss_sum += torch.where(weight > 0, loss * weight, 0)
        elif weight:
            self._loss_sum += loss * weight
        self._weight_sum += weight

    def compute(self) -> float:
        """The loss over all processes, which wait for each other."""
        return self._value(distributed.total(self._sums()))

    def of_this_process(self) -> float:
        """The loss of the batches of this process alone."""
        return self._value(self._sums())

    def _sums(self) -> Tensor:
        return torch.stack([self._loss_sum, self._weight_sum])

    def _value(self, sums: Tensor) -> float:
        loss_sum, weight_sum = sums.tolist()
        if not weight_sum:
            return math.nan
        return float(loss_sum if self._weight.is_sum else loss_sum / weight_sum)


def update_metrics(metrics: Mapping[str, Any], outputs: Any, targets: Any) -> None:
    """Updates each metric with a batch; see `create_metrics` for what a metric gets of it."""
    for metric in metrics.values():
        if takes_whole_outputs(metric):
            metric.update(outputs, targets)
        else:
            metric.update(main_output(outputs), main_target(targets))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EpochLoader,
    pipeline: InputPipeline,
    runtime: Runtime,
    *,
    loss: Loss,
    metrics: Mapping[str, Any],
    adjust: Callable[[Tensor], Tensor] | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, float]:
    """ "loss", as of one batch of all the loader's examples, and each metric, over all processes.

    model: in eval mode. adjust: what is done to the main outputs before metrics see them; the loss
    is of the outputs as they are. Losses stay on the device until the end, so that nothing waits
    for it. classes: of the data; ValueError is raised where the model has another number of
    outputs, see `check_output_count`.
    """
    # running statistics: each process has moved its own, by its own batches
    distributed.share_buffers(model)
    loss_module = module_of(loss)
    if loss_module is not None:
        distributed.share_buffers(loss_module)
    for metric in metrics.values():
        metric.reset()
    mean_loss = MeanLoss(loss, runtime.device)
    loss_weight = LossWeight.of(loss)
    for batch, outputs in run_through(model, loader, pipeline, runtime):
        check_output_count(outputs, classes, loss_weight)
        mean_loss.update(outputs, batch)
        if adjust is not None:
            outputs = adjust(main_output(outputs))
        update_metrics(metrics, outputs, batch.targets)
    return {"loss": mean_loss.compute(), **computed(metrics, runtime.device)}


def validate(setup: Setup) -> dict[str, float]:
    """`evaluate` of the model that trains, on its validation data. Leaves it in eval mode."""
    assert setup.data.valid is not None
    setup.model.eval()
    return evaluate(
        setup.model,
        setup.data.valid,
        setup.data,
        setup.runtime,
        loss=setup.loss,
        metrics=setup.metrics,
        classes=setup.data.classes,
    )


def computed(metrics: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """The value of each metric over all processes; a collection has several.

    device: where the metrics are. Raises ValueError for a value that is not one number.
    """
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        fill_empty_states(metric, device)
        value = metric.compute()
        if isinstance(value, dict):
            for part_name, part in value.items():
                values[part_name] = _rounded(part_name, part)
        else:
            values[name] = _rounded(name, value)
    return values


def _rounded(name: str, value: Any) -> float:
    try:
        return float(f"{float(value):.{_DIGITS}g}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} must give one number, got {value!r}") from error
