"""One evaluation: every batch through the model, the loss and the metrics."""

from collections.abc import Generator
from typing import Any

import torch

from finetune import distributed
from finetune.data.loaders import Batch, EpochLoader
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.setup import Setup, folded_norms, forward, in_float32


def run_through(
    setup: Setup, loader: EpochLoader, view: int | None = None
) -> Generator[tuple[Batch, Any], None, None]:
    """The evaluation's way: each batch as the model gets it, and its outputs in float32.

    view: of the images, see `DataLoaders.prepare`. The model is left in eval mode. Asks nothing
    of other processes, so that one of them may do it alone.
    """
    setup.model.eval()
    folded: FoldedNorms | None = None
    for raw in loader.epoch(setup.data.seed, 0):
        if not len(raw):  # this process has no share of a short last batch
            continue
        with torch.no_grad():  # a tensor that a model keeps for later must be able to train
            batch = setup.data.prepare(raw.to(setup.runtime.device), view)
            folded = folded or folded_norms(setup, batch.inputs, training=False)
            with setup.runtime.autocast(), folded.active():
                outputs = forward(setup.model, batch.inputs)
        yield batch, in_float32(outputs)


@torch.no_grad()
def evaluate(setup: Setup, loader: EpochLoader) -> dict[str, float]:
    """ "loss", the mean over the loader's examples, and each metric, over all processes.

    The model is left in eval mode. Losses stay on the device until the end.
    """
    distributed.share_buffers(setup.model)
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
    for name, metric in metrics.items():
        value = metric.compute()
        named = value if isinstance(value, dict) else {name: value}  # of a collection several
        results.update({own: _scalar(own, one) for own, one in named.items()})
    return results


def _scalar(name: str, value: Any) -> float:
    try:
        return float(f"{float(value):.7g}")  # the digits that float32 knows, in any unit
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} must give one number, got {value!r}") from error
