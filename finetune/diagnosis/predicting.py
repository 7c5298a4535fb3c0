"""A model and a loader -> Predictions."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.loaders import Batch
from finetune.data.picture_loaders import PictureLoaders
from finetune.diagnosis.reading import InOrder, Source
from finetune.interpret.predictions import Predictions
from finetune.interpret.task_predictions import (
    LabelsPredictions,
    TaskPredictions,
    ValuesPredictions,
)
from finetune.randomness import isolated
from finetune.task import activation
from finetune.training.evaluation import run_through
from finetune.training.folding import eval_mode
from finetune.training.setup import Loss, Setup

cross_entropy = nn.functional.cross_entropy


def predict(setup: Setup, source: Source) -> Predictions:
    """Raises ValueError for data or a model that do not choose one class an example."""
    scores, targets, losses = _run(setup, source, None, _class_losses)
    return _table(setup, source, scores, targets, losses)


def predict_task(
    setup: Setup, source: Source, thresholds: Mapping[str, float] | None
) -> TaskPredictions:
    """For several labels, or numbers. Losses are the cross-entropy of the labels, by example, or
    the squared error, both means over the classes or targets."""
    outputs, targets, losses = _run(setup, source, None, _task_losses)
    classes = setup.data.classes or [str(i) for i in range(outputs.shape[1])]
    found = activation(outputs, setup.data.task)
    table = (source.items(len(targets)), classes, targets.numpy(), found.numpy(), losses.numpy())
    if setup.data.task == "regression":
        return ValuesPredictions(*table, picture=source.picture)
    return LabelsPredictions(*table, thresholds=thresholds, picture=source.picture)


def predict_views(setup: Setup, source: Source, views: int) -> Predictions:
    """Mean probabilities over the deterministic view and `views` random ones; their losses are the
    cross-entropy of that mean."""
    if views < 1:
        raise ValueError(f"views must be positive, got {views}")
    if isinstance(setup.data, PictureLoaders) and not isinstance(source.loader, InOrder):
        raise ValueError(
            "random views are drawn by the pictures' numbers, which a torch DataLoader does not "
            "give; take a loader of ImageDataLoaders, such as learner.data.valid"
        )
    total: Tensor | None = None
    for view in (None, *range(views)):
        scores, targets, _ = _run(setup, source, view, _class_losses)
        probabilities = scores.double().softmax(dim=1)
        total = probabilities if total is None else total + probabilities
    assert total is not None
    scores = (total / (views + 1)).clamp_min(torch.finfo(torch.float64).tiny).log()
    losses = nn.functional.nll_loss(scores, targets, reduction="none")
    return _table(setup, source, scores, targets, losses)


def _run(
    setup: Setup,
    source: Source,
    view: int | None,
    losses_of: Callable[[Setup, Batch, Any], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, C], targets [N] or [N, C], and losses [N] on the CPU."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    read = closing(run_through(setup, source.loader, view))
    with isolated(), eval_mode(setup.model), read as batches:  # in the middle of a fit, too
        for batch, outputs in batches:
            losses = losses_of(setup, batch, outputs)
            found.append((outputs.cpu(), batch.targets.cpu(), losses.float().cpu()))
    if not found:
        raise ValueError("the loader gave no examples")
    scores, targets, losses = (torch.cat(parts) for parts in zip(*found, strict=True))
    return scores, targets, losses


def _class_losses(setup: Setup, batch: Batch, outputs: Any) -> Tensor:
    _check_single_label(batch, outputs)
    return example_losses(setup.loss, outputs, batch.targets)


def _task_losses(setup: Setup, batch: Batch, outputs: Any) -> Tensor:
    """[B]. Raises ValueError for outputs or targets that are not of the data's task."""
    task, targets = setup.data.task, batch.targets
    if not isinstance(outputs, Tensor) or outputs.shape != targets.shape:
        raise ValueError(
            f"for task={task!r} outputs and targets are both [B, C], here they are "
            f"{_shape(outputs)} and {_shape(targets)}"
        )
    if task == "regression":
        each: Tensor = (outputs - targets).square()
        return each.mean(dim=1)
    each = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return each.mean(dim=1)


def _table(
    setup: Setup, source: Source, scores: Tensor, targets: Tensor, losses: Tensor
) -> Predictions:
    classes = setup.data.classes or [str(i) for i in range(scores.shape[1])]
    items = source.items(len(targets))
    numpy = (values.numpy() for values in (targets, scores, losses))
    return Predictions(items, classes, *numpy, picture=source.picture)


def _check_single_label(batch: Batch, outputs: Any) -> None:
    targets = batch.targets
    whole = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim == 1
    scores = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1
    if whole and scores:
        return
    raise ValueError(
        "this analysis is for one class an example: outputs [B, C] and whole numbers [B] as "
        f"targets, here they are {_shape(outputs)} and {_shape(targets)}; for several labels or "
        "numbers as targets look at learner.validate() with suitable metrics"
    )


def _shape(value: Any) -> str:
    kind = f"{value.dtype}".removeprefix("torch.") if isinstance(value, Tensor) else ""
    return f"{kind} {list(value.shape)}" if kind else type(value).__name__


def example_losses(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """[B], in the learner's own way where it is a cross-entropy (a partial or a module of it, with
    weights or smoothing), and plain cross-entropy otherwise."""
    own: Any = cross_entropy
    options = {"reduction": "none"}
    if isinstance(loss, partial) and loss.func is cross_entropy:
        own = loss
    elif isinstance(loss, nn.CrossEntropyLoss):
        each = copy.copy(loss)
        each.reduction = "none"
        own, options = each, {}
    found: Tensor = own(outputs, targets, **options)
    return found.detach()


def weights_state(model: nn.Module, steps: int) -> tuple[Any, ...]:
    """Changes with every change of the weights in place, through an optimizer or otherwise.

    steps: trained so far. Of each tensor its identity and torch's count of changes are looked at,
    which costs microseconds; what goes through `.data` escapes that count.
    """
    tensors: Sequence[Tensor] = [*model.parameters(), *model.buffers()]
    return steps, *((id(tensor), tensor._version) for tensor in tensors)
