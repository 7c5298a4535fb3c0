"""Which results of validation are better: by the name of a value, and of all values together."""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

from finetune.tasks.registry import registered_tasks

Direction: TypeAlias = Literal["min", "max"]

LOWER_IS_BETTER = ("loss", "error", "error_rate", "mae", "mse", "rmse")

_ALIKE = 1e-3
"""How much losses may differ, of their size, that mean the same."""


def names_of_known_direction() -> list[str]:
    """The ends of the names whose better direction is known, sorted."""
    return sorted({*LOWER_IS_BETTER, *_higher_is_better()})


def _higher_is_better() -> set[str]:
    # the other metrics that the tasks know by name, and torchmetrics' name of f1
    names = {"f1score"}
    for task in registered_tasks():
        names.update(task.named_metrics())
    return names - set(LOWER_IS_BETTER)


def better_direction(name: str) -> Direction | None:
    """Whether the smallest or the largest value is the best, by the end of the name.

    None where the name does not say it.

    >>> better_direction("valid_loss"), better_direction("accuracy"), better_direction("spread")
    ('min', 'max', None)
    """
    if name.endswith(LOWER_IS_BETTER):
        return "min"
    if name.endswith(tuple(_higher_is_better())):
        return "max"
    return None


def deciding_metric(results: Mapping[str, float]) -> str:
    """The value that says which results are better: the first metric, or else the loss.

    It is the loss where there is no metric, and where the name of the first one does not say
    whether a lower or a higher one is better.

    >>> deciding_metric({"loss": 0.4, "accuracy": 0.8}), deciding_metric({"loss": 0.4, "mine": 1.0})
    ('accuracy', 'loss')
    """
    metrics = [name for name in results if name != "loss"]
    if metrics and better_direction(metrics[0]) is not None:
        return metrics[0]
    return "loss"


def rank(results: Mapping[str, float]) -> tuple[float, float]:
    """A key that is larger for better results: by the deciding metric, where equal by the loss.

    NaN is worse than everything.

    >>> rank({"loss": 0.4, "accuracy": 0.8}) > rank({"loss": 0.3, "accuracy": 0.7})
    True
    >>> rank({"loss": 0.4, "accuracy": 0.8}) < rank({"loss": 0.3, "accuracy": 0.8})
    True
    """
    name = deciding_metric(results)
    value = results[name]
    if better_direction(name) == "min":
        value = -value
    return _or_worst(value), _or_worst(-results["loss"])


def is_worse(results: Mapping[str, float], than: Mapping[str, float]) -> bool:
    """Whether these results rank behind others, of the same metrics.

    Losses that differ by a thousandth are alike: on kept features they are rounded otherwise.

    >>> is_worse({"loss": 0.4, "accuracy": 0.8}, than={"loss": 0.3, "accuracy": 0.7})
    False
    >>> is_worse({"loss": 0.30001, "accuracy": 0.7}, than={"loss": 0.3, "accuracy": 0.7})
    False
    """
    metric, loss = rank(results)
    other_metric, other_loss = rank(than)
    if deciding_metric(results) != "loss" and metric != other_metric:
        return metric < other_metric
    return loss < other_loss and not math.isclose(loss, other_loss, rel_tol=_ALIKE)


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value
