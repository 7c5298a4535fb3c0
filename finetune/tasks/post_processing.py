"""PostProcessing: what is fitted after training and stands between outputs and answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from finetune import arguments
from finetune.tasks.coverage import Coverage
from finetune.tasks.familiarity import Familiarity
from finetune.tasks.priors import Priors
from finetune.wording import did_you_mean

DEFAULT_THRESHOLD = 0.5
"""Probability from which on a class is predicted, where an image may have several."""


@dataclass(frozen=True, slots=True)
class PostProcessing:
    """Settings between a model's outputs and its answers; they hold for one state of its weights.

    temperature: what outputs are divided by before they become probabilities, see
    `Learner.calibrate`. thresholds: the probability from which on a class is predicted, by class
    name, for several labels an image; a class that is not named has 0.5. priors: the shares of the
    classes that answers are for, if they are others than those of training. coverage: how sets and
    intervals are made. familiarity: how strange images are told.
    Raises ValueError for a temperature that is not positive, and for a threshold outside [0, 1].

    >>> settings = PostProcessing(temperature=1.5, thresholds={"rare": 0.2})
    >>> settings.thresholds["rare"]
    0.2
    """

    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    priors: Priors | None = None
    coverage: Coverage | None = None
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        arguments.real_number("temperature", self.temperature, above=0)
        arguments.mapping("thresholds", self.thresholds, "classes to probabilities")
        for name, value in self.thresholds.items():
            arguments.real_number(f"thresholds[{name!r}]", value, at_least=0, at_most=1)
        if self.priors is not None:
            arguments.instance("priors", self.priors, Priors)
        if self.coverage is not None:
            arguments.instance("coverage", self.coverage, Coverage)
        if self.familiarity is not None:
            arguments.instance("familiarity", self.familiarity, Familiarity)

    def thresholds_of(self, classes: Sequence[str]) -> list[float]:
        """One threshold for each class, in order. Raises ValueError for a threshold of no class."""
        arguments.sequence("classes", classes, "names")
        for name in self.thresholds:
            if name not in classes:
                raise ValueError(f"there is no class {name!r}; {did_you_mean(name, classes)}")
        return [float(self.thresholds.get(name, DEFAULT_THRESHOLD)) for name in classes]

    def shifted(self, outputs: Tensor, classes: Sequence[str]) -> Tensor:
        """The outputs [B, C] with what the priors add, before they are divided by the temperature.

        The outputs themselves without priors. Raises ValueError for priors of other classes.
        """
        if self.priors is None:
            return outputs
        shift = self.priors.shift
        if list(shift) != list(classes):
            raise ValueError(f"priors are for the classes {list(shift)}, not {list(classes)}")
        added = torch.tensor([shift[name] for name in classes], device=outputs.device)
        return outputs + self.temperature * added

    def tensors(self) -> dict[str, Tensor]:
        """What is too large for plain data, for a file beside it, by name."""
        if self.familiarity is None:
            return {}
        return {"features": self.familiarity.features}

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for a file; without `tensors`."""
        content: dict[str, Any] = {
            "temperature": self.temperature,
            "thresholds": dict(self.thresholds),
        }
        if self.priors is not None:
            content["priors"] = self.priors.to_dict()
        if self.coverage is not None:
            content["coverage"] = self.coverage.to_dict()
        if self.familiarity is not None:
            content["familiarity"] = self.familiarity.to_dict()
        return content

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> "PostProcessing":
        """From what `to_dict` and `tensors` gave; older files are without some settings.

        Without the tensors there is no familiarity.
        """
        priors, coverage = data.get("priors"), data.get("coverage")
        familiarity: Familiarity | None = None
        if data.get("familiarity") is not None and tensors:
            familiarity = Familiarity.from_dict(data["familiarity"], tensors["features"])
        return cls(
            float(data.get("temperature", 1.0)),
            dict(data.get("thresholds") or {}),
            None if priors is None else Priors.from_dict(priors),
            None if coverage is None else Coverage.from_dict(coverage),
            familiarity,
        )
