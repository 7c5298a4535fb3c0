"""Familiarity: how strange an image is, beside those that the model was trained and validated on.

    score = (energy - its mean) / its spread + (distance - its mean) / its spread
    unknown = share of the validation images with a lower score

The energy, -log(sum of exp(logits)), is high where no class is seen: it finds a strange class near
the known ones. The distance, 1 - cosine of the angle between features and the nearest ones of a
training image, is high where nothing is as ever. Each finds what the other one overlooks.

Sources: Liu et al., "Energy-based Out-of-distribution Detection" (2020); Sun et al.,
"Out-of-Distribution Detection with Deep Nearest Neighbors" (2022).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MOST_FEATURES = 4000
"""So many training images are kept to compare with: 10 MB of a backbone with 1,280 features."""

UNKNOWN_FROM = 0.95
"""An image is unknown if it is stranger than this share of the validation images."""

_STEPS = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and spread of a measure over the validation images."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Tensor) -> "Scale":
        # a measure that never varies says nothing, and must not divide by zero
        spread = float(values.double().std(correction=0))
        return cls(float(values.double().mean()), spread or 1.0)

    def __call__(self, values: Tensor) -> Tensor:
        return (values.double() - self.mean) / self.spread


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """What is needed to say how strange an image is; two are the same only if they are one.

    energy, distance: scales of the two measures; None for one that the model does not have.
    quantiles: of the scores of validation, [101], from the lowest to the highest. count: of
    validation images. features: of training images, float16 [M, F] of length 1; [0, 0] without
    a distance.
    """

    energy: Scale | None
    distance: Scale | None
    quantiles: tuple[float, ...]
    count: int
    features: Tensor

    @classmethod
    def fit(
        cls, energy: Tensor | None, features: Tensor | None, known_features: Tensor | None
    ) -> "Familiarity":
        """energy: [N], features: [N, F] of validation. known_features: [M, F] of training."""
        known = torch.empty(0, 0, dtype=torch.float16)
        distance_scale: Scale | None = None
        if features is not None and known_features is not None:
            known = F.normalize(known_features.float(), dim=1).half()
            distance_scale = Scale.of(_distance(features, known))
        energy_scale = None if energy is None else Scale.of(energy)
        unscaled = cls(energy_scale, distance_scale, (), 0, known)
        scores = unscaled.score(energy, features).numpy()
        quantiles = np.quantile(scores, np.linspace(0, 1, _STEPS + 1))
        return cls(energy_scale, distance_scale, tuple(quantiles.tolist()), len(scores), known)

    def score(self, energy: Tensor | None, features: Tensor | None) -> Tensor:
        """How strange each image is, float64 [B], on the scale of spreads of validation."""
        scores: list[Tensor] = []
        if self.energy is not None and energy is not None:
            scores.append(self.energy(energy))
        if self.distance is not None and features is not None:
            scores.append(self.distance(_distance(features, self.features)))
        return torch.stack(scores).sum(dim=0)

    def unknown(self, energy: Tensor | None, features: Tensor | None) -> list[float]:
        """The share of validation images that are less strange than each image, in [0, 1].

        Above the strangest one it goes on to 1, so that stranger images still have more.
        """
        scores = self.score(energy, features).numpy()
        highest = self.count / (self.count + 1)
        shares = np.interp(scores, self.quantiles, np.linspace(0, highest, _STEPS + 1))
        beyond = np.clip(scores - self.quantiles[-1], 0, None)
        rising = 1 - (1 - highest) * np.exp(-beyond)
        result: list[float] = np.where(beyond > 0, rising, shares).tolist()
        return result

    def to_dict(self) -> dict[str, Any]:
        """Everything but the features, as plain data."""
        content: dict[str, Any] = {"quantiles": list(self.quantiles), "count": self.count}
        for name, scale in (("energy", self.energy), ("distance", self.distance)):
            if scale is not None:
                content[name] = {"mean": scale.mean, "spread": scale.spread}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], features: Tensor) -> "Familiarity":
        """From what `to_dict` gave, and the features. Raises ValueError for what can't be that."""
        energy, distance = content.get("energy"), content.get("distance")
        quantiles = tuple(map(float, content["quantiles"]))
        if len(quantiles) != _STEPS + 1 or features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"familiarity needs {_STEPS + 1} quantiles and features [M, F], it has "
                f"{len(quantiles)} and {features.dtype} {list(features.shape)}"
            )
        return cls(
            None if energy is None else Scale(float(energy["mean"]), float(energy["spread"])),
            None if distance is None else Scale(float(distance["mean"]), float(distance["spread"])),
            quantiles,
            int(content["count"]),
            features,
        )


def _distance(features: Tensor, known: Tensor) -> Tensor:
    """1 - cosine of the angle to the nearest of the known ones, [B]; known: [M, F] of length 1."""
    similarity = F.normalize(features.float(), dim=1) @ known.float().T
    return 1 - similarity.amax(dim=1)
