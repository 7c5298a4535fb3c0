"""Adapters around metrics: what they need of a model's outputs and targets, and of all batches."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from finetune import distributed
from finetune.interpret.analysis import class_scores_of, mean_over_present, r2_scores
from finetune.nested import concatenated, main_output, main_target

MetricFactory: TypeAlias = Callable[[int], Any]
"""Number of classes -> a metric: an object with update(outputs, targets), compute() and reset()."""

Transform: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Outputs and targets of a batch -> what a metric needs of them."""


class MetricAdapter:
    """A metric that is updated with what `transform` makes of the main output and target.

    finish: makes a number of the metric's value; None where it is one.
    """

    def __init__(
        self, metric: Any, transform: Transform, *, finish: Callable[[Any], float] | None = None
    ) -> None:
        self.metric, self.transform = metric, transform
        self.finish = finish

    def to(self, device: torch.device) -> "MetricAdapter":
        self.metric.to(device)
        return self

    def update(self, outputs: Any, targets: Any) -> None:
        self.metric.update(*self.transform(main_output(outputs), main_target(targets)))

    def compute(self) -> Any:
        value = self.metric.compute()
        return value if self.finish is None else self.finish(value)

    def reset(self) -> None:
        self.metric.reset()


class WholeSetMetric:
    """A function of all outputs and all targets, over all processes.

    A mean over batches would be another number for most functions: for F1, a correlation, a
    quantile. The batches are kept on the device until the value is asked for; that of no example is
    NaN.

    function: (outputs, targets) -> number; it gets them in the structure in which they come.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self._device = torch.device("cpu")
        self._batches: list[tuple[Any, Any]] = []
        self._value: Any = None

    def to(self, device: torch.device) -> "WholeSetMetric":
        self._device = device
        return self

    def update(self, outputs: Any, targets: Any) -> None:
        self._batches.append((outputs, targets))
        self._value = None

    def compute(self) -> Any:
        if self._value is None:
            self._value = self._compute()
            self._batches.clear()  # a data set of outputs may take much memory
        return self._value

    def _compute(self) -> Any:
        whole = concatenated(self._batches) if self._batches else None
        shares = distributed.gathered(whole, self._device)
        shares = [share for share in shares if share is not None]
        if not shares:
            return torch.nan
        outputs, targets = concatenated(shares)
        return self.function(outputs, targets)

    def reset(self) -> None:
        self._batches.clear()
        self._value = None


def torch_metric(name: str, **options: Any) -> Any:
    """A metric of torchmetrics by its class name; the import takes a second, so it comes late."""
    import torchmetrics
    from torchmetrics import classification

    kind = getattr(classification, name, None) or getattr(torchmetrics, name)
    return kind(**options)


def takes_whole_outputs(metric: Any) -> bool:
    """Whether a metric looks at outputs and targets in the structure in which they come.

    Functions and objects of the user's do; torchmetrics' own can't.
    """
    return not getattr(metric.update, "__module__", "").startswith("torchmetrics.")


def fill_empty_states(metric: Any, device: torch.device) -> None:
    """Prepares a metric that several processes share for its value.

    torchmetrics puts the tensors that its objects keep in lists behind each other, those of all
    processes, and can't where a process without examples has none: it gets an empty tensor of the
    others' kind.
    """
    if distributed.world_size() == 1:
        return
    lists: dict[str, list[Tensor]] = {}
    for number, part in enumerate(_torchmetrics_in(metric)):
        for name, reduction in part._reductions.items():
            if getattr(reduction, "__name__", "") == "dim_zero_cat":
                lists[f"{number} {name}"] = getattr(part, name)
    if not lists:
        return
    kinds: dict[str, Tensor] = {}
    for name, state in lists.items():
        if state:
            # as torchmetrics does it for several of them, single numbers are rows
            state[:] = [tensor.reshape(-1, *tensor.shape[1:]) for tensor in state]
            kinds[name] = state[0][:0]
    for kinds_of_process in distributed.gathered(kinds, device):
        for name, kind in kinds_of_process.items():
            if not lists[name]:
                lists[name].append(kind)


def _torchmetrics_in(metric: Any) -> list[Any]:
    """The objects of torchmetrics in a metric, be it one, a collection or an adapter."""
    if isinstance(metric, MetricAdapter):
        metric = metric.metric
    if not isinstance(metric, torch.nn.Module):
        return []
    return [module for module in metric.modules() if hasattr(module, "_reductions")]


# --- means over the classes that have examples


def class_mean(stat_scores: Any, score: str, transform: Transform) -> MetricAdapter:
    """The mean of a score over the classes that have examples, see `analysis.mean_over_present`.

    stat_scores: torchmetrics' StatScores of each class. score: "precision", "recall" or "f1".
    """
    return MetricAdapter(stat_scores, transform, finish=partial(_mean_of_score, score))


def _mean_of_score(score: str, counts: Tensor) -> float:
    """counts: [C, 5], true and false positives, true and false negatives, support."""
    hits, false_alarms, _, _, support = counts.reshape(-1, 5).cpu().numpy().T
    scores = class_scores_of(hits, support, hits + false_alarms)
    return mean_over_present(getattr(scores, score), support > 0)


def mean_auroc(probabilities: Tensor, is_of_class: Tensor) -> float:
    """The area under the ROC curve, as a mean over the classes.

    A class counts if some examples are of it and some are not; without the two there is no curve.

    probabilities: [N, C] in [0, 1]. is_of_class: [N, C] bool.
    """
    from torchmetrics.functional.classification import binary_auroc

    return _mean_area(binary_auroc, probabilities, is_of_class, needs_others=True)


def mean_average_precision(probabilities: Tensor, is_of_class: Tensor) -> float:
    """Average precision as a mean over the classes that have examples; arguments as above."""
    from torchmetrics.functional.classification import binary_average_precision

    return _mean_area(binary_average_precision, probabilities, is_of_class, needs_others=False)


def _mean_area(
    area: Callable[..., Tensor],
    probabilities: Tensor,
    is_of_class: Tensor,
    *,
    needs_others: bool,
) -> float:
    examples = len(is_of_class)
    areas = []
    is_present = []
    for number, support in enumerate(is_of_class.sum(dim=0).tolist()):
        is_defined = support > 0 and not (needs_others and support == examples)
        is_present.append(is_defined)
        value = torch.nan
        if is_defined:
            targets = is_of_class[:, number].int()
            value = float(area(probabilities[:, number], targets, validate_args=False))
        areas.append(value)
    return mean_over_present(np.array(areas), np.array(is_present))


def mean_r2(outputs: Tensor, targets: Tensor) -> float:
    """R2 of targets in any unit; torchmetrics' own takes small sums of squares for zero."""
    # in float64, which not every device has
    columns = [
        values.cpu().double().reshape(len(values), -1).numpy() for values in (targets, outputs)
    ]
    return float(r2_scores(*columns).mean())


# --- torchmetrics' objects that guess


_GUESS_SOFTMAX = (
    "MulticlassPrecisionRecallCurve",
    "MulticlassCalibrationError",
    "MulticlassHingeLoss",
)


def without_guess(metric: Any, *, outputs_are_probabilities: bool) -> Any:
    """A metric of torchmetrics that gets probabilities; the metric itself where it needs none.

    Many of them take the outputs of a batch for probabilities if all of them lie in [0, 1], and for
    logits if not, so that the value would depend on how examples are batched.
    """
    activation = _guessed_activation(metric)
    if activation is None:
        return metric

    def probabilities(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        are_scores = outputs.is_floating_point()  # others are predicted classes
        if are_scores and not outputs_are_probabilities:
            outputs = activation(outputs.float())
        return outputs, targets.int() if targets.is_floating_point() else targets

    return MetricAdapter(metric, probabilities)


def _guessed_activation(metric: Any) -> Callable[[Tensor], Tensor] | None:
    """What a metric makes of outputs that it takes for logits; None if it takes them as they are.

    metric: may be a collection of metrics or a wrapper around one.
    """
    for name in _names_of_classes(metric):
        if name.startswith(("Binary", "Multilabel")):
            return torch.sigmoid
        if name in _GUESS_SOFTMAX:
            return partial(torch.softmax, dim=1)
    return None


def _names_of_classes(metric: Any) -> Iterator[str]:
    """The names of the torchmetrics classes that a metric and those inside it are of."""
    metrics = metric.modules() if isinstance(metric, torch.nn.Module) else [metric]
    for inner_metric in metrics:
        for kind in type(inner_metric).__mro__:
            if kind.__module__.startswith("torchmetrics."):
                yield kind.__name__
