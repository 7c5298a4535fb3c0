"""Outputs: what a model gives for every example, computed once, looked at in many ways."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.batching import ImageLoader
from finetune.data.loaders import EpochLoader, InputPipeline
from finetune.inference.reading import InOrder, Source
from finetune.nested import main_output, main_target
from finetune.randomness import isolated
from finetune.tasks import Loss, Task
from finetune.training.evaluation import MeanLoss, run_through
from finetune.training.runtime.runtime import Runtime


@dataclass(frozen=True, eq=False, repr=False)
class Outputs:
    """One row for each example, on the CPU, in the order of the source.

    items: paths, or numbers. outputs: float32 [N, C] as the model gives them. targets: [N, ...].
    losses: [N], of each example by itself. loss: of all together, as training computes it. image:
    opens the image of a row, by its number; None where no images are known.
    """

    items: tuple[str | int, ...]
    outputs: Tensor
    targets: Tensor
    losses: Tensor
    loss: float
    image: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Outputs({len(self):,} examples, {self.outputs.shape[1]:,} outputs)"


def compute_outputs(
    model: nn.Module,
    source: Source,
    pipeline: InputPipeline,
    runtime: Runtime,
    *,
    task: Task,
    loss: Loss,
    view: int | None = None,
) -> Outputs:
    """Runs the model, which is in eval mode, over a source.

    view: of the examples, see `InputPipeline.prepare`. loss: counts each example by itself where it
    is one of torch's for the task, see `Task.example_losses`. Raises ValueError for outputs or
    targets of another task.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    losses: list[Tensor] = []
    mean_loss = MeanLoss(loss, runtime.device)
    batches = run_through(model, source.loader, pipeline, runtime, view=view)
    with reading(source.loader), closing(batches):
        for batch, all_outputs in batches:
            batch_outputs = main_output(all_outputs)
            batch_targets = task.checked_targets(batch_outputs, main_target(batch.targets))
            if isinstance(batch.targets, Tensor):
                batch = replace(batch, targets=batch_targets)  # class numbers of any whole type
            mean_loss.update(all_outputs, batch)
            batch_losses = task.example_losses(loss, batch_outputs, batch_targets)
            outputs.append(batch_outputs.cpu())
            targets.append(batch_targets.cpu())
            losses.append(batch_losses.float().cpu())
    if not outputs:
        raise ValueError("the loader gave no examples")
    return Outputs(
        tuple(source.items(sum(map(len, outputs)))),
        torch.cat(outputs),
        torch.cat(targets),
        torch.cat(losses),
        mean_loss.of_this_process(),
        source.image,
    )


def reading(loader: EpochLoader) -> AbstractContextManager[None]:
    """Put it around a pass over a loader: one of the user's may draw from the global generators.

    Ours draw from none in evaluation, and to put the generators back would undo what another thread
    draws meanwhile.
    """
    images = loader.loader if isinstance(loader, InOrder) else loader
    return nullcontext() if isinstance(images, ImageLoader) else isolated()


def mean_over_views(views: list[Outputs], task: Task, loss: Loss, device: torch.device) -> Outputs:
    """Outputs whose activation is the mean of the views' activations, with the mean's losses."""
    first = views[0]
    total = torch.zeros_like(task.activation(first.outputs), dtype=torch.float64)
    for outputs in views:
        total += task.activation(outputs.outputs).double()
    mean_outputs = task.inverse_activation(total / len(views))
    losses = _losses_of(mean_outputs, first.targets, task, loss, device)
    mean_loss = float(losses.mean())
    return Outputs(first.items, mean_outputs, first.targets, losses, mean_loss, first.image)


def mean_over_groups(
    outputs: Outputs, groups: Sequence[str], task: Task, loss: Loss, device: torch.device
) -> Outputs:
    """One row for each group of examples, in the order of its first one: the mean of the outputs.

    With a linear head that is the answer to the mean of the features. groups: the name of each
    example's group, which names the row. Raises ValueError for a group whose examples have
    different targets.
    """
    rows_by_group: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows_by_group.setdefault(group, []).append(row)
    means = []
    for group, rows in rows_by_group.items():
        targets = outputs.targets[rows]
        if not torch.equal(targets, targets[:1].expand_as(targets)):
            raise ValueError(
                f"the {len(rows)} images of group {group!r} do not all have the same label, so "
                "that there is none for all of them together"
            )
        means.append(outputs.outputs[rows].mean(dim=0))
    mean_outputs = torch.stack(means)
    first_rows = [rows[0] for rows in rows_by_group.values()]
    targets = outputs.targets[first_rows]
    losses = _losses_of(mean_outputs, targets, task, loss, device)
    image_of_example = outputs.image
    image: Callable[[int], Any] | None = None
    if image_of_example is not None:

        def image(row: int) -> Any:
            return image_of_example(first_rows[row])

    return Outputs(tuple(rows_by_group), mean_outputs, targets, losses, float(losses.mean()), image)


def _losses_of(
    outputs: Tensor, targets: Tensor, task: Task, loss: Loss, device: torch.device
) -> Tensor:
    # on the device, where the loss may have weights
    return task.example_losses(loss, outputs.to(device), targets.to(device)).cpu()
