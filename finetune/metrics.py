"""Metrics: thin adapters over torchmetrics, with update(outputs, targets), compute and reset."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from finetune.wording import did_you_mean

MetricLike: TypeAlias = "str | Callable[[Any, Any], Any] | Any"

_NAMES = {
    "accuracy": ("MulticlassAccuracy", {"average": "micro"}),
    "balanced_accuracy": ("MulticlassAccuracy", {"average": "macro"}),
    "f1": ("MulticlassF1Score", {"average": "macro"}),
    "precision": ("MulticlassPrecision", {"average": "macro"}),
    "recall": ("MulticlassRecall", {"average": "macro"}),
    "auroc": ("MulticlassAUROC", {"average": "macro"}),
}


def create_metrics(
    metrics: Sequence[MetricLike], num_classes: int | None, device: torch.device
) -> dict[str, Any]:
    """Name -> metric, from names, torchmetrics objects, or functions (outputs, targets) -> number.

    A function's values are averaged over the examples. Raises ValueError for an unknown name.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    created: dict[str, Any] = {}
    for metric in metrics:
        if isinstance(metric, str):
            name, value = metric, _by_name(metric, num_classes)
        elif all(hasattr(metric, method) for method in ("update", "compute", "reset")):
            name, value = type(metric).__name__.lower(), metric
        elif callable(metric):
            name = getattr(metric, "__name__", type(metric).__name__)
            value = _mean_of(metric)
        else:
            raise TypeError(
                f"a metric is a name, a function or a torchmetrics object, got {metric!r}"
            )
        if name in created or name == "loss":
            raise ValueError(f"two metrics are called {name!r}")
        created[name] = value.to(device) if hasattr(value, "to") else value
    return created


def _by_name(name: str, num_classes: int | None) -> Any:
    if name not in _NAMES:
        raise ValueError(f"there is no metric {name!r}; {did_you_mean(name, _NAMES)}")
    if num_classes is None:
        raise ValueError(f"metric {name!r} needs the classes; pass DataLoaders(..., classes=[...])")
    from torchmetrics import classification  # a second to import, so not at the top

    kind, options = _NAMES[name]
    return getattr(classification, kind)(num_classes=num_classes, validate_args=False, **options)


def _mean_of(function: Callable[[Any, Any], Any]) -> Any:
    from torchmetrics import MeanMetric

    class FunctionMean(MeanMetric):
        """The mean of a function's values, weighted by the batches' sizes."""

        def update(self, outputs: Any, targets: Any) -> None:  # type: ignore[override]
            super().update(torch.as_tensor(function(outputs, targets)).float(), len(targets))

    return FunctionMean()
