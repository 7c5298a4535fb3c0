"""Metrics: thin adapters over torchmetrics, with update(outputs, targets), compute and reset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from finetune.tasks.task import Task, activation
from finetune.wording import did_you_mean

MetricLike: TypeAlias = str | Callable[[Any, Any], Any] | Any
Metrics: TypeAlias = MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike]

_SINGLE_LABEL: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("MulticlassAccuracy", {"average": "micro"}),
    "balanced_accuracy": ("MulticlassAccuracy", {"average": "macro"}),
    "f1": ("MulticlassF1Score", {"average": "macro"}),
    "precision": ("MulticlassPrecision", {"average": "macro"}),
    "recall": ("MulticlassRecall", {"average": "macro"}),
    "auroc": ("MulticlassAUROC", {"average": "macro"}),
    "error_rate": ("MulticlassAccuracy", {"average": "micro"}),
}
_MULTI_LABEL: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("MultilabelAccuracy", {"average": "micro"}),
    "exact_match": ("MultilabelExactMatch", {}),
    "f1": ("MultilabelF1Score", {"average": "macro"}),
    "f1_micro": ("MultilabelF1Score", {"average": "micro"}),
    "precision": ("MultilabelPrecision", {"average": "macro"}),
    "recall": ("MultilabelRecall", {"average": "macro"}),
    "average_precision": ("MultilabelAveragePrecision", {"average": "macro"}),
    "auroc": ("MultilabelAUROC", {"average": "macro"}),
}
_REGRESSION: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("MeanAbsoluteError", {}),
    "mse": ("MeanSquaredError", {}),
    "rmse": ("MeanSquaredError", {"squared": False}),
    "r2": ("R2", {}),
}
_NAMES = {"single_label": _SINGLE_LABEL, "multi_label": _MULTI_LABEL, "regression": _REGRESSION}
DEFAULTS: dict[Task, tuple[str, ...]] = {
    "single_label": ("accuracy",),
    "multi_label": ("f1", "accuracy"),
    "regression": ("mae", "r2"),
}
"""What is measured unless it is said otherwise."""


def create_metrics(
    metrics: Metrics,
    num_classes: int | None,
    device: torch.device,
    task: Task = "single_label",
) -> dict[str, Any]:
    """Name -> metric, from names, torchmetrics objects, or functions (outputs, targets) -> number.

    metrics: one or several of them, or a mapping of names to them. A function's values are averaged
    over the examples; it gets the model's outputs as they are, and so does an object, but for
    torchmetrics' Multilabel ones, which get probabilities. A collection gives its own names.
    Of several labels an image, names count those with a probability above 0.5, and "f1",
    "precision", "recall" and "auroc" are means over the classes; "accuracy" is the share of all
    yes-or-no answers that are right. Raises ValueError for a name that the task has not.
    """
    created: dict[str, Any] = {}
    for given, metric in _pairs(metrics):
        usual, value = _of(metric, num_classes, task)
        name = usual if given is None else given
        if name in created or name == "loss":
            raise ValueError(
                f"two metrics are called {name!r}; name them: metrics={{'first': ..., ...}}"
            )
        created[name] = value.to(device) if hasattr(value, "to") else value
    return created


def _pairs(metrics: Metrics) -> list[tuple[str | None, MetricLike]]:
    """Names, where they are given, and metrics."""
    if isinstance(metrics, str) or callable(metrics) or _is_object(metrics):
        return [(None, metrics)]
    if isinstance(metrics, Mapping):
        return list(metrics.items())
    given: Sequence[MetricLike] = metrics
    return [(None, metric) for metric in given]


def _is_object(metric: Any) -> bool:
    methods = all(hasattr(metric, method) for method in ("update", "compute", "reset"))
    return methods and not isinstance(metric, type)


def _of(metric: MetricLike, num_classes: int | None, task: Task) -> tuple[str, Any]:
    """Its usual name, and what can be updated."""
    if isinstance(metric, str):
        return metric, _by_name(metric, num_classes, task)
    kind = type(metric).__name__
    if _is_object(metric):
        if getattr(metric, "average", "") in (None, "none"):
            raise ValueError(f"{kind} has average=None; a metric is one number, say average=")
        is_multilabel = kind.startswith("Multilabel") and task == "multi_label"
        return kind.lower(), OfProbabilities(metric) if is_multilabel else metric
    if callable(metric) and not isinstance(metric, type):
        return getattr(metric, "__name__", kind), _mean_of(metric)
    raise TypeError(f"a metric is a name, a function or a torchmetrics object, got {metric!r}")


def _by_name(name: str, num_classes: int | None, task: Task) -> Any:
    known = _NAMES[task]
    if name not in known:
        others = [other for other, names in _NAMES.items() if name in names]
        hint = f"it is for {' and '.join(others)}; " if others else ""
        of = "" if task == "single_label" and not others else f" for task={task!r}"
        raise ValueError(f"there is no metric {name!r}{of}; {hint}{did_you_mean(name, known)}")
    if num_classes is None and task != "regression":
        raise ValueError(f"metric {name!r} needs the classes; pass DataLoaders(..., classes=[...])")
    import torchmetrics  # a second to import, so not at the top
    from torchmetrics import classification

    kind, options = known[name]
    if task == "regression":
        return _Numbers(_r2() if name == "r2" else getattr(torchmetrics, kind)(**options))
    if task == "multi_label":
        metric = getattr(classification, kind)(
            num_labels=num_classes, validate_args=False, **options
        )
        return OfProbabilities(metric)
    metric = getattr(classification, kind)(num_classes=num_classes, validate_args=False, **options)
    special = {"auroc": _OfClassProbabilities, "error_rate": _ErrorRate}
    return special.get(name, _OfClasses)(metric)


class _Adapter:
    """A torchmetrics object behind what it needs of outputs and targets."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def to(self, device: torch.device) -> "_Adapter":
        self.metric.to(device)
        return self

    def compute(self) -> Any:
        return self.metric.compute()

    def reset(self) -> None:
        self.metric.reset()


class _OfClasses(_Adapter):
    """Targets of another task would be counted as something, without a word."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() or targets.ndim > max(outputs.ndim - 1, 1):
            raise ValueError(
                f"{type(self.metric).__name__} needs class numbers [B] as targets, got "
                f"{targets.dtype} {list(targets.shape)}; pass task='multi_label' or "
                "task='regression' to the data, or a function as a metric"
            )
        self.metric.update(outputs, targets)


class _OfClassProbabilities(_OfClasses):
    """As `OfProbabilities`, of one class an example."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs.float().softmax(dim=1), targets)


class _ErrorRate(_OfClasses):
    """Of an accuracy."""

    def compute(self) -> Any:
        return 1 - self.metric.compute()


class OfProbabilities(_Adapter):
    """torchmetrics guesses whether it got logits; those of a batch may all lie in [0, 1]."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(activation(outputs, "multi_label"), targets.int())


class _Numbers(_Adapter):
    """Shapes must agree: [B] against [B, 1] would be spread to [B, B]."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != targets.shape:
            raise ValueError(
                f"a regression needs targets like the outputs, {list(outputs.shape)}, "
                f"got {list(targets.shape)}"
            )
        self.metric.update(outputs.float().contiguous(), targets.float().contiguous())


def _r2() -> Any:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat

    class R2(Metric):
        """Of targets in any unit: torchmetrics' own takes small sums of squares for zero."""

        pairs: Any
        width: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.add_state("pairs", [], dist_reduce_fx="cat")  # flat, as of a process without any
            self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            pairs = torch.stack([outputs, targets], dim=1)
            self.width.fill_(pairs[0, 0].numel())
            self.pairs.append(pairs.flatten())

        def compute(self) -> float:
            # not every device has float64
            pairs = dim_zero_cat(self.pairs).cpu().double().view(-1, 2, int(self.width))
            return r2_score(pairs[:, 0], pairs[:, 1])

    return R2()


def r2_score(outputs: Tensor, targets: Tensor) -> float:
    """1 - the squares' sum of the errors / that around the mean; the mean over targets [N, K].

    Of a target that is always the same 1 if every output is it, else 0; NaN for one example.

    >>> r2_score(torch.tensor([[0.0], [2e-9]]), torch.tensor([[0.0], [1e-9]]))
    -1.0
    """
    if len(targets) < 2:
        return float("nan")
    errors = (outputs - targets).double().square().sum(dim=0)
    around = (targets - targets.double().mean(dim=0)).square().sum(dim=0)
    varies = (targets != targets[0]).any(dim=0)
    return float(torch.where(varies, 1 - errors / around, (errors == 0).double()).mean())


def _mean_of(function: Callable[[Any, Any], Any]) -> Any:
    from torchmetrics import MeanMetric

    class FunctionMean(MeanMetric):
        """The mean of a function's values, weighted by the batches' sizes."""

        def update(self, outputs: Any, targets: Any) -> None:  # type: ignore[override]
            super().update(torch.as_tensor(function(outputs, targets)).float(), len(targets))

    return FunctionMean()
