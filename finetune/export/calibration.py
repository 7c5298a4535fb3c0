"""Calibration: temperature and priors as part of the weights of a linear layer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.export.description import ModelDescription

_KEY = "finetune_calibration"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What post-processing does to logits before the activation: (logits + shift) / temperature.

    timm and transformers know nothing of it, so that the layer that makes the logits does it for
    them. shift: a number for each class, or none.
    """

    temperature: float = 1.0
    shift: tuple[float, ...] = ()

    @classmethod
    def of(cls, description: ModelDescription) -> "Calibration":
        settings = description.post_processing
        if settings.priors is None:
            return cls(settings.temperature)
        shift = settings.shifted(torch.zeros(len(description.classes)), description.classes)
        return cls(settings.temperature, tuple(shift.tolist()))

    @property
    def is_none(self) -> bool:
        return self == Calibration()

    def put_into(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [C, F] and biases [C] of a layer whose logits are calibrated."""
        if self.is_none:
            return weight, bias
        shifted = bias.double() + self._shift()
        return (
            (weight.double() / self.temperature).to(weight.dtype),
            (shifted / self.temperature).to(bias.dtype),
        )

    def take_out_of(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes `put_into`, to the rounding of the weights' type."""
        if self.is_none:
            return weight, bias
        logit_bias = bias.double() * self.temperature - self._shift()
        return (weight.double() * self.temperature).to(weight.dtype), logit_bias.to(bias.dtype)

    def _shift(self) -> Tensor | float:
        return torch.tensor(self.shift, dtype=torch.float64) if self.shift else 0.0

    def to_metadata(self) -> dict[str, str]:
        """For the header of a safetensors file, which holds text."""
        if self.is_none:
            return {}
        return {_KEY: json.dumps({"temperature": self.temperature, "shift": self.shift})}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Calibration":
        if _KEY not in metadata:
            return cls()
        content = json.loads(metadata[_KEY])
        return cls(float(content["temperature"]), tuple(content["shift"]))
