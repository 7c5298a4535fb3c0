"""Metrics by name, by function or as torchmetrics objects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from finetune import arguments
from finetune.tasks import (
    DEFAULT_TASK,
    Loss,
    Task,
    TaskLike,
    registered_tasks,
    resolve_task,
)
from finetune.tasks.losses import takes_probabilities
from finetune.tasks.metric_adapters import WholeSetMetric, without_guess
from finetune.wording import did_you_mean

MetricLike: TypeAlias = str | Callable[[Any, Any], Any] | Any
Metrics: TypeAlias = MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike]


def create_metrics(
    metrics: Metrics,
    class_count: int | None,
    device: torch.device,
    task: TaskLike = DEFAULT_TASK,
    *,
    loss: Loss | None = None,
) -> dict[str, Any]:
    """The metrics by name, as objects with update(outputs, targets), compute() and reset().

    metrics: one metric, several, or a mapping of names to metrics. A metric is a name, a
    torchmetrics object or a function (outputs, targets) -> number. A function is called once, with
    the outputs and targets of all examples, over all processes.
    Functions and objects of the user's get outputs and targets as they are. Names and torchmetrics
    objects get the main ones, see `nested.main_output`, and torchmetrics objects that would guess
    whether they got logits get probabilities; outputs are logits unless `loss` is one of
    probabilities, BCELoss.
    "top_3_accuracy" (or 2, 5, 10) is the share of examples whose class is among the 3 likeliest.
    "balanced_accuracy", "f1", "precision", "recall", "average_precision" and "auroc" are means over
    the classes that have examples in what is evaluated. Where an image has several labels, the
    named metrics count those with a probability above 0.5, and "accuracy" is the share of all
    yes-or-no answers that are right.
    Raises ValueError for a name that the task does not have, and for two metrics of one name.
    """
    task = resolve_task(task)
    created: dict[str, Any] = {}
    for user_name, metric in _named(metrics):
        default_name, updatable = _create(metric, class_count, task, loss)
        name = default_name if user_name is None else user_name
        if name in created or name == "loss":
            raise ValueError(
                f"two metrics are called {name!r}; name them: metrics={{'first': ..., ...}}"
            )
        if hasattr(updatable, "to"):
            updatable = updatable.to(device)
        created[name] = updatable
    return created


def _named(metrics: Metrics) -> list[tuple[str | None, MetricLike]]:
    """Pairs of the user's name for a metric, or None, and the metric."""
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    # before it is taken for a list: a collection of torchmetrics is callable, and has items
    is_single = isinstance(metrics, str) or callable(metrics) or _is_metric_object(metrics)
    if is_single:
        return [(None, metrics)]
    several = arguments.sequence("metrics", metrics, "names, functions or torchmetrics objects")
    return [(None, metric) for metric in several]


def _is_metric_object(metric: Any) -> bool:
    has_methods = all(hasattr(metric, method) for method in ("update", "compute", "reset"))
    return has_methods and not isinstance(metric, type)


def _create(
    metric: MetricLike, class_count: int | None, task: Task, loss: Loss | None
) -> tuple[str, Any]:
    """The default name of a metric, and the object that can be updated."""
    if isinstance(metric, str):
        return metric, _by_name(metric, class_count, task)
    type_name = type(metric).__name__
    if _is_metric_object(metric):
        return type_name.lower(), _adapted(metric, task, loss)
    if callable(metric) and not isinstance(metric, type):
        return getattr(metric, "__name__", type_name), WholeSetMetric(metric)
    raise TypeError(
        "metrics must be names, functions or torchmetrics objects, or a mapping of names to them, "
        f"got {arguments.shown(metric)}"
    )


def _adapted(metric: Any, task: Task, loss: Loss | None) -> Any:
    """An object of the user's, behind what it needs of outputs and targets.

    Raises ValueError for a metric that gives a number for each class.
    """
    # "" for a metric without averages: None is one of the ways to say "none"
    if getattr(metric, "average", "") in (None, "none"):
        raise ValueError(
            f"{type(metric).__name__} has average=None; a metric is one number, say average="
        )
    adapted = task.adapt_metric(metric)
    if adapted is not metric:
        return adapted
    return without_guess(metric, outputs_are_probabilities=takes_probabilities(loss))


def _by_name(name: str, class_count: int | None, task: Task) -> Any:
    known_metrics = task.named_metrics()
    if name not in known_metrics:
        raise ValueError(_unknown_name_message(name, task))
    if class_count is None and task.names_are == "classes":
        raise ValueError(f"metric {name!r} needs the classes; pass DataLoaders(..., classes=[...])")
    # the metrics of a regression need no count
    return known_metrics[name](class_count or 0)


def _unknown_name_message(name: str, task: Task) -> str:
    """The error's words for a name that is no metric of the task."""
    tasks_with_it = []
    for registered in registered_tasks():
        if name in registered.named_metrics():
            tasks_with_it.append(registered.name)
    for_task = ""
    if tasks_with_it or task != DEFAULT_TASK:
        for_task = f" for task={task.name!r}"
    it_is_for = ""
    if tasks_with_it:
        it_is_for = f"it is for {' and '.join(tasks_with_it)}; "
    hint = did_you_mean(name, task.named_metrics())
    return f"there is no metric {name!r}{for_task}; {it_is_for}{hint}"
