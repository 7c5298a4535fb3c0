"""LabelledImages: validation images for the formats that compute less exactly than the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Batches: TypeAlias = Iterator[tuple[Tensor, Tensor]]

MOST_IMAGES = 2000
"""So many are compared, evenly spread over all; the error of a share is then about 0.01."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Validation images, to calibrate a smaller model with and to measure what it loses.

    batches: makes, each time it is called, pairs of the model's inputs, normalised float32
    [B, 3, S, S], and their targets, on the CPU.
    """

    batches: Callable[[], Batches]
