"""Sampling: how often the classes come in an epoch, where they are of uneven size."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from finetune.randomness import generator
from finetune.tasks import Task

Sampling: TypeAlias = Literal["balanced", "sqrt"]

_EXPONENTS = {"balanced": 0.0, "sqrt": 0.5}


def class_shares(counts: Sequence[int], sampling: Sampling | None) -> list[float]:
    """The share of an epoch that each class has; a class without images has none.

    counts: the images of each class. sampling: None is as many as there are, "balanced" the same
    for all classes, "sqrt" in proportion to the square root of their images.

    >>> class_shares([90, 10], None), class_shares([90, 10], "sqrt")
    ([0.9, 0.1], [0.75, 0.25])
    """
    exponent = 1.0 if sampling is None else _EXPONENTS[sampling]
    sizes = [count**exponent if count else 0.0 for count in counts]
    return [size / sum(sizes) for size in sizes]


def seen_shares(
    task: Task, counts: Mapping[str, int], images: int, sampling: Sampling | None
) -> dict[str, float]:
    """The share of an epoch's images that have each class, by name.

    counts: images of each class; empty for a regression. images: all of training.
    """
    if not task.exclusive:
        return {name: count / images for name, count in counts.items()}
    shares = class_shares(list(counts.values()), sampling)
    return dict(zip(counts, shares, strict=True))


def chances(labels: Tensor, sampling: Sampling | None) -> Tensor:
    """The share of an epoch that each image has on average, float64 [N], 1 in sum.

    labels: [N] class numbers.
    """
    counts = torch.bincount(labels)
    shares = torch.tensor(class_shares(counts.tolist(), sampling), dtype=torch.float64)
    return (shares / counts.clamp_min(1))[labels]


def draw(labels: Tensor, sampling: Sampling, seed: int, epoch: int) -> Tensor:
    """The numbers of the images of one epoch, [N] int64, a pure function of seed and epoch.

    An epoch is as long as ever, so that images of small classes come several times, and of large
    ones only some. Within a class all come equally often, or once more, which is more even than
    independent draws (systematic resampling: Kitagawa 1996).

    labels: [N] class numbers.
    """
    count = len(labels)
    drawer = generator(seed, "sampling", epoch)
    numbers = torch.randperm(count, generator=drawer)
    numbers = numbers[labels[numbers].argsort(stable=True)]  # by class, at random within it
    # N equally spaced points fall into stretches of [0, 1] as long as each image's chance
    ends = chances(labels, sampling)[numbers].cumsum(0)
    points = (torch.arange(count) + torch.rand((), generator=drawer, dtype=torch.float64)) / count
    places = torch.searchsorted(ends, points).clamp_max(count - 1)
    order = torch.randperm(count, generator=generator(seed, "shuffle", epoch))
    return numbers[places][order]
