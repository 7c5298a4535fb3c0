"""Classes of uneven size: how uneven they are, and what their images weigh in the loss."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from finetune import arguments
from finetune.wording import did_you_mean

ClassWeights: TypeAlias = Literal["balanced"] | Mapping[str, float]

UNEVEN = 5.0
"""Classes are uneven if the largest one has so many times as many images as the smallest one."""


def imbalance(counts: Sequence[int]) -> float | None:
    """The largest count over the smallest; infinite where a class has none, None without classes.

    >>> imbalance([30, 10]), imbalance([])
    (3.0, None)
    """
    if not counts:
        return None
    if min(counts) == 0:
        return float("inf")
    return max(counts) / min(counts)


def are_uneven(counts: Sequence[int]) -> bool:
    """Whether the classes with these counts of images are so uneven that it matters."""
    ratio = imbalance(counts)
    return ratio is not None and ratio >= UNEVEN


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """N / (C * n) for a class of n images, so that an image of the whole set weighs 1 on average.

    A class without images weighs 1, and is not one of the C.

    >>> balanced_weights([30, 10])
    [0.6666666666666666, 2.0]
    """
    present = sum(1 for count in counts if count)
    total = sum(counts)
    return [total / (present * count) if count else 1.0 for count in counts]


def named_weights(class_weights: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """The weight of each class, in order; one that is not named weighs 1.

    Raises ValueError for a name that is no class, and for a weight that is not positive.
    """
    arguments.mapping("class_weights", class_weights, "class names to weights, or 'balanced'")
    for name, weight in class_weights.items():
        if name not in classes:
            hint = did_you_mean(str(name), classes)
            raise ValueError(f"class_weights: there is no class {name!r}; {hint}")
        arguments.real_number(f"class_weights[{name!r}]", weight, above=0)
    return [float(class_weights.get(name, 1.0)) for name in classes]
