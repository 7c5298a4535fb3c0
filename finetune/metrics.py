"""Metrics by name, by function or as torchmetrics objects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from finetune.tasks import DEFAULT_TASK, SingleLabel, Task, TaskLike, registered_tasks, resolve_task
from finetune.wording import did_you_mean

MetricLike: TypeAlias = str | Callable[[Any, Any], Any] | Any
Metrics: TypeAlias = MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike]


def create_metrics(
    metrics: Metrics,
    class_count: int | None,
    device: torch.device,
    task: TaskLike = DEFAULT_TASK,
) -> dict[str, Any]:
    """Name -> metric, an object with update(outputs, targets), compute() and reset().

    metrics: names, torchmetrics objects or functions (outputs, targets) -> number, one or several,
    or a mapping of names to them. A function's values are averaged over the examples; it gets the
    model's outputs as they are, and so does an object, unless the task adapts it: torchmetrics'
    Multilabel ones get probabilities. A collection gives its own names.
    Of several labels an image, names count those with a probability above 0.5, and "f1",
    "precision", "recall" and "auroc" are means over the classes; "accuracy" is the share of all
    yes-or-no answers that are right. Raises ValueError for a name that the task does not have.
    """
    task = resolve_task(task)
    created: dict[str, Any] = {}
    for given_name, metric in _named(metrics):
        usual_name, updatable = _create(metric, class_count, task)
        name = usual_name if given_name is None else given_name
        if name in created or name == "loss":
            raise ValueError(
                f"two metrics are called {name!r}; name them: metrics={{'first': ..., ...}}"
            )
        if hasattr(updatable, "to"):
            updatable = updatable.to(device)
        created[name] = updatable
    return created


def _named(metrics: Metrics) -> list[tuple[str | None, MetricLike]]:
    """Each metric with the name that the user gave it, or None."""
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    is_single = isinstance(metrics, str) or callable(metrics) or _is_metric_object(metrics)
    if is_single:
        return [(None, metrics)]
    several: Sequence[MetricLike] = metrics  # type: ignore[assignment]  # the rest of the union
    return [(None, metric) for metric in several]


def _is_metric_object(metric: Any) -> bool:
    has_methods = all(hasattr(metric, method) for method in ("update", "compute", "reset"))
    return has_methods and not isinstance(metric, type)


def _create(metric: MetricLike, class_count: int | None, task: Task) -> tuple[str, Any]:
    """The usual name of a metric, and the object that can be updated."""
    if isinstance(metric, str):
        return metric, _by_name(metric, class_count, task)
    class_name = type(metric).__name__
    if _is_metric_object(metric):
        if getattr(metric, "average", "") in (None, "none"):
            raise ValueError(f"{class_name} has average=None; a metric is one number, say average=")
        return class_name.lower(), task.adapt_metric(metric)
    if callable(metric) and not isinstance(metric, type):
        return getattr(metric, "__name__", class_name), _mean_over_examples(metric)
    raise TypeError(f"a metric is a name, a function or a torchmetrics object, got {metric!r}")


def _by_name(name: str, class_count: int | None, task: Task) -> Any:
    known = task.named_metrics()
    if name not in known:
        raise ValueError(_unknown_name(name, task))
    if class_count is None and task.names_are == "classes":
        raise ValueError(f"metric {name!r} needs the classes; pass DataLoaders(..., classes=[...])")
    return known[name](class_count or 0)


def _unknown_name(name: str, task: Task) -> str:
    """What is wrong with a name that the task's metrics do not have, for an error."""
    known = task.named_metrics()
    other_tasks = [other.name for other in registered_tasks() if name in other.named_metrics()]
    for_task = ""
    if other_tasks or not isinstance(task, SingleLabel):
        for_task = f" for task={task.name!r}"
    hint = ""
    if other_tasks:
        hint = f"it is for {' and '.join(other_tasks)}; "
    return f"there is no metric {name!r}{for_task}; {hint}{did_you_mean(name, known)}"


def _mean_over_examples(function: Callable[[Any, Any], Any]) -> Any:
    """The mean of a function's values, weighted by the sizes of the batches."""
    from torchmetrics import MeanMetric  # a second to import, so not at the top

    class FunctionMean(MeanMetric):
        def update(self, outputs: Any, targets: Any) -> None:  # type: ignore[override]
            value = torch.as_tensor(function(outputs, targets)).float()
            super().update(value, len(targets))

    return FunctionMean()
