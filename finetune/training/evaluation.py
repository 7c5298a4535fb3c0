"""One evaluation: every batch through the model, the loss and the metrics."""

from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import nn

from finetune import distributed
from finetune.data.loaders import Batch, EpochLoader, InputPipeline
from finetune.tasks import Loss
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup, folded_norms, forward, in_float32

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
    processes, so that one of them may do it alone.
    """
    folded: FoldedNorms | None = None
    for raw_batch in loader.epoch(pipeline.seed, 0):
        if not len(raw_batch):  # this process has no share of a short last batch
            continue
        with (
            torch.no_grad()
        ):  # not inference mode: what a model keeps for later must be able to train
            batch = pipeline.prepare(raw_batch.to(runtime.device), view)
            if folded is None:
                folded = folded_norms(model, runtime, batch.inputs, training=False)
            with runtime.autocast(), folded.active():
                outputs = forward(model, batch.inputs)
        yield batch, in_float32(outputs)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EpochLoader,
    pipeline: InputPipeline,
    runtime: Runtime,
    *,
    loss: Loss,
    metrics: Mapping[str, Any],
) -> dict[str, float]:
    """ "loss", the mean over the loader's examples, and each metric, over all processes.

    model: in eval mode. Losses stay on the device until the end, so that nothing waits for it.
    """
    distributed.share_buffers(model)
    for metric in metrics.values():
        metric.reset()
    loss_sum = torch.zeros((), device=runtime.device)
    example_count = 0
    for batch, outputs in run_through(model, loader, pipeline, runtime):
        loss_sum += loss(outputs, batch.targets) * len(batch)
        example_count += len(batch)
        for metric in metrics.values():
            metric.update(outputs, batch.targets)
    sums = torch.stack([loss_sum, torch.tensor(float(example_count), device=runtime.device)])
    total_loss, total_count = distributed.total(sums).tolist()
    mean_loss = total_loss / total_count if total_count else float("nan")
    return {"loss": mean_loss, **computed(metrics)}


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
    )


def computed(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The value of each metric; a collection has several.

    Raises ValueError for a value that is not one number.
    """
    values: dict[str, float] = {}
    for name, metric in metrics.items():
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
