"""compare: what a smaller form of a model loses, on validation images."""

from collections.abc import Callable

import torch
from torch import Tensor

from finetune.export.description import Comparison, ModelDescription
from finetune.export.served import ModelToExport
from finetune.metrics import create_metrics
from finetune.tasks import Task
from finetune.tasks.ranking import better_direction

HARMFUL_SHARE = 0.02
"""What an accuracy, or another metric in [0, 1], may lose without a warning."""

_HARMFUL_FRACTION = 0.05
"""What a metric in the unit of the targets may get worse by, as a part of itself."""


def compare(exported: ModelToExport, run: Callable[[Tensor], Tensor]) -> Comparison:
    """Metrics of the model and of a smaller form of it, and how far their answers are apart.

    run: the smaller form, from images, float32 [B, 3, S, S] in [0, 1], to probabilities or values.
    """
    before, targets = exported.answers
    after = torch.cat([run(images) for images, _ in exported.labelled_batches()])
    description = exported.description
    same_answers: float | None = None
    if description.task.exclusive:
        same = before.argmax(dim=1) == after.argmax(dim=1)
        same_answers = float(same.float().mean())
    return Comparison(
        images=len(before),
        before=_metrics_of(before, targets, description),
        after=_metrics_of(after, targets, description),
        same_answers=same_answers,
        greatest_difference=float((before - after).abs().max()),
    )


def _metrics_of(
    answers: Tensor, targets: Tensor, description: ModelDescription
) -> dict[str, float]:
    task = description.task
    train = description.data.get("train")
    counts = [] if train is None else list(train.classes.values())
    names = task.standard_metrics(counts)
    created = create_metrics(names, len(description.classes), torch.device("cpu"), task)
    outputs = task.inverse_activation(answers)
    values = {}
    for name, metric in created.items():
        metric.update(outputs, targets)
        # the digits that float32 knows
        values[name] = float(f"{float(metric.compute()):.7g}")
    return values


def is_harmful(comparison: Comparison, task: Task) -> bool:
    """Whether the smaller form answers worse than people would expect of it."""
    name = next(iter(comparison.before))
    before, after = comparison.before[name], comparison.after[name]
    lost = after - before if better_direction(name) == "min" else before - after
    allowed = HARMFUL_SHARE if task.metrics_are_shares else _HARMFUL_FRACTION * abs(before)
    return lost > allowed


def in_words(comparison: Comparison, task: Task) -> str:
    """What a smaller form loses, as sentences."""
    texts = []
    for name, before in comparison.before.items():
        texts.append(
            f"{name} {_text(task, comparison, name, before)} of the model and "
            f"{_text(task, comparison, name, comparison.after[name])} of this file"
        )
    sentences = [f"On {comparison.images:,} validation images: {', '.join(texts)}."]
    kind = "probabilities" if task.gives_probabilities else "values"
    difference = f"{kind} differ by up to {comparison.greatest_difference:.2g}"
    if comparison.same_answers is not None:
        share = f"{100 * comparison.same_answers:.1f} %"
        difference = f"the likeliest class is the same for {share}, and {difference}"
    sentences.append(f"{difference[0].upper()}{difference[1:]}.")
    if is_harmful(comparison, task):
        sentences.append("**It answers worse than the model.**")
    return " ".join(sentences)


def _text(task: Task, comparison: Comparison, name: str, value: float) -> str:
    return task.metric_text(name, value, comparison.images)
