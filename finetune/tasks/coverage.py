"""Coverage: limits that make an answer a set or an interval which holds the truth often enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune import arguments


@dataclass(frozen=True, slots=True)
class Coverage:
    """Limits that were fitted to validation data; see `interpret.conformal`.

    share: how often sets or intervals hold the truth, in (0, 1). limits: by class the probability
    from which on it is in the set; of a regression by target how far the truth may be off.
    """

    share: float
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        arguments.real_number("coverage", self.share, above=0, below=1)
        arguments.mapping("limits", self.limits, "classes to probabilities")
        for name, value in self.limits.items():
            arguments.real_number(f"limits[{name!r}]", value, at_least=0)

    def limits_of(self, names: Sequence[str]) -> np.ndarray:
        """The limits of these classes or targets, in order. Raises ValueError for one without."""
        missing = [name for name in names if name not in self.limits]
        if missing:
            raise ValueError(f"the coverage was fitted without {missing[0]!r}; calibrate again")
        return np.array([self.limits[name] for name in names])

    def to_dict(self) -> dict[str, Any]:
        return {"share": self.share, "limits": dict(self.limits)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Coverage":
        return cls(content["share"], content["limits"])
