"""A model and a loader -> a table of predictions."""

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.data.loaders import DataLoaders
from finetune.data.picture_loaders import ImageLoaders
from finetune.inference.reading import InOrder, Source
from finetune.interpret.predictions import Predictions
from finetune.interpret.task_predictions import LabelsPredictions, ValuesPredictions
from finetune.randomness import isolated
from finetune.tasks.task import SquaredError, Task, activation
from finetune.training.evaluation import run_through
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Loss, Setup

Table: TypeAlias = Predictions | LabelsPredictions | ValuesPredictions

# the losses that can be had by example; the first function is for those that cannot
_FUNCTIONS: dict[Task, tuple[Callable[..., Tensor], ...]] = {
    "single_label": (F.cross_entropy,),
    "multi_label": (F.binary_cross_entropy_with_logits,),
    "regression": (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
}
_MODULES: dict[Task, tuple[type[nn.Module], ...]] = {
    "single_label": (nn.CrossEntropyLoss,),
    "multi_label": (nn.BCEWithLogitsLoss,),
    "regression": (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
}


def predict(setup: Setup, source: Source) -> Table:
    """The table that suits the data's task. Losses are those of `example_losses`.

    Raises ValueError for data or a model of another task.
    """
    return _table(setup, source, *_run(setup, source, None))


def predict_views(setup: Setup, source: Source, views: int) -> Table:
    """Mean probabilities, or values, over the deterministic view and `views` random ones; their
    losses are those of that mean."""
    _check_views(setup.data, source, views)
    task, device = setup.data.task, setup.runtime.device
    total: Tensor | None = None
    for view in (None, *range(views)):
        outputs, targets, _ = _run(setup, source, view)
        found = activation(outputs, task).double()
        total = found if total is None else total.add_(found)
    assert total is not None
    scores = _scores(total / (views + 1), task)
    losses = example_losses(setup.loss, scores.to(device), targets.to(device), task).cpu()
    return _table(setup, source, scores, targets, losses)


def _check_views(data: DataLoaders, source: Source, views: int) -> None:
    if views < 1:
        raise ValueError(f"views must be positive, got {views}")
    if isinstance(data, ImageLoaders):
        if not isinstance(source.loader, InOrder):
            raise ValueError(
                "random views are drawn by the images' numbers, which a torch DataLoader does "
                "not give; take a loader of ImageDataLoaders, such as learner.data.valid"
            )
        has_views = data.augmentation is not None
    else:
        has_views = type(data).prepare is not DataLoaders.prepare
    if not has_views:
        raise ValueError(
            f"this {type(data).__name__} has no augmentation, so that all views of an example are "
            "the same; pass augment= to ImageDataLoaders, or override DataLoaders.prepare"
        )


def _scores(means: Tensor, task: Task) -> Tensor:
    """What the activation makes these means of, float32."""
    if task == "single_label":
        return means.clamp_min(torch.finfo(torch.float32).tiny).log().float()
    return (means.logit(eps=1e-9) if task == "multi_label" else means).float()


def _run(setup: Setup, source: Source, view: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, C], targets [N] or [N, C], and losses [N] on the CPU."""
    task = setup.data.task
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    read = closing(run_through(setup, source.loader, view))
    with isolated(), eval_mode(setup.model), read as batches:  # in the middle of a fit, too
        for batch, outputs in batches:
            targets = _checked(outputs, batch.targets, task)
            losses = example_losses(setup.loss, outputs, targets, task)
            found.append((outputs.cpu(), targets.cpu(), losses.float().cpu()))
    if not found:
        raise ValueError("the loader gave no examples")
    scores, targets, losses = (torch.cat(parts) for parts in zip(*found, strict=True))
    return scores, targets, losses


def _table(setup: Setup, source: Source, scores: Tensor, targets: Tensor, losses: Tensor) -> Table:
    task, items = setup.data.task, source.items(len(targets))
    classes = setup.data.classes or [str(i) for i in range(scores.shape[1])]
    outputs = scores if task == "single_label" else activation(scores, task)
    kinds: dict[Task, Any] = {"multi_label": LabelsPredictions, "regression": ValuesPredictions}
    numpy = (values.numpy() for values in (targets, outputs, losses))
    table: Table = kinds.get(task, Predictions)(items, classes, *numpy, image=source.image)
    return table


def _checked(outputs: Any, targets: Any, task: Task) -> Tensor:
    """The targets; class numbers as int64. Raises ValueError for what is not of the task."""
    tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if task == "single_label":
        whole = tensors and not targets.is_floating_point() and targets.ndim == 1
        if not whole or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ValueError(
                "this analysis is for one class an example: outputs [B, C] and whole numbers [B] "
                f"as targets, here they are {_shape(outputs)} and {_shape(targets)}; for several "
                "labels or numbers as targets pass task= to DataLoaders"
            )
        return _class_numbers(targets.long(), outputs.shape[1])
    if not tensors or outputs.ndim != 2 or outputs.shape != targets.shape:
        raise ValueError(
            f"for task={task!r} outputs and targets are both [B, C], here they are "
            f"{_shape(outputs)} and {_shape(targets)}"
        )
    found: Tensor = targets
    return found


def _class_numbers(targets: Tensor, count: int) -> Tensor:
    """Told before the loss, which on a GPU would end the process's use of it."""
    wrong = targets[(targets < 0) | (targets >= count)]
    if len(wrong):
        raise ValueError(
            f"targets are class numbers from 0 to {count - 1}, a class for each of the model's "
            f"outputs, got {int(wrong[0])}; leave out what has no label"
        )
    return targets


def _shape(value: Any) -> str:
    kind = f"{value.dtype}".removeprefix("torch.") if isinstance(value, Tensor) else ""
    return f"{kind} {list(value.shape)}" if kind else type(value).__name__


def example_losses(
    loss: Loss, outputs: Tensor, targets: Tensor, task: Task = "single_label"
) -> Tensor:
    """[B], means over the classes or targets. In the learner's own way where that is a loss of
    torch's for the task (a function, a partial or a module of it, with weights or smoothing) or
    `SquaredError`; otherwise plain cross-entropy, of each label, or the squared error."""
    functions, own = _FUNCTIONS[task], _FUNCTIONS[task][0]
    options = {"reduction": "none"}
    if isinstance(loss, SquaredError):
        outputs, targets = outputs / loss.std, targets / loss.std
    elif (loss.func if isinstance(loss, partial) else loss) in functions:
        own = loss
    elif isinstance(loss, _MODULES[task]):
        each: Any = copy.copy(loss)
        each.reduction = "none"
        own, options = each, {}
    found = own(outputs, targets, **options).detach()
    return found if found.ndim == 1 else found.flatten(1).mean(dim=1)


def weights_state(model: nn.Module, steps: int) -> tuple[Any, ...]:
    """Changes with every change of the weights in place, through an optimizer or otherwise.

    steps: trained so far. Of each tensor its identity and torch's count of changes are looked at,
    which costs microseconds; what goes through `.data` escapes that count.
    """
    tensors: Sequence[Tensor] = [*model.parameters(), *model.buffers()]
    return steps, *((id(tensor), tensor._version) for tensor in tensors)
