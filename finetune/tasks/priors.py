"""Priors: the shares of the classes that probabilities are for, and the way from one to another.

    p(class | image) is proportional to p(image | class) * share of the class

A model learns the left side at the shares that training saw. Where it is used, the classes may have
other shares, or all of them may be meant to count alike. Then its outputs need not be trained anew:
what depends on the shares is added to them.

Source: Menon et al., "Long-tail learning via logit adjustment" (2021).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from finetune import arguments
from finetune.wording import did_you_mean

PriorChoice: TypeAlias = Literal["uniform"] | Mapping[str, float]

_SUM_TOLERANCE = 0.01
"""How far from 1 shares may add up to, which people round; they are then made to add up to it."""


@dataclass(frozen=True, slots=True)
class Priors:
    """What probabilities are moved from and to, by class name.

    target, training: the share of each class that answers are for, and that training saw. shift:
    what is added to the outputs, once they are divided by the temperature.
    """

    target: Mapping[str, float]
    training: Mapping[str, float]
    shift: Mapping[str, float]

    def __post_init__(self) -> None:
        for part in ("target", "training", "shift"):
            values = arguments.mapping(f"priors.{part}", getattr(self, part), "classes to numbers")
            for name, value in values.items():
                arguments.real_number(f"priors.{part}[{name!r}]", value)
        if not self.target.keys() == self.training.keys() == self.shift.keys():
            raise ValueError("priors.target, .training and .shift must name the same classes")

    def to_dict(self) -> dict[str, dict[str, float]]:
        return {
            "target": dict(self.target),
            "training": dict(self.training),
            "shift": dict(self.shift),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Priors":
        return cls(content["target"], content["training"], content["shift"])


def between_classes(wanted: PriorChoice, training: Mapping[str, float]) -> Priors:
    """Of classes that exclude each other: log(target / training) is added.

    wanted: "uniform", or the share of every class, which add up to 1.

    >>> priors = between_classes("uniform", {"cat": 0.9, "dog": 0.1})
    >>> {name: round(value, 2) for name, value in priors.shift.items()}
    {'cat': -0.59, 'dog': 1.61}
    """
    _check_seen(training, below_one=False)
    if isinstance(wanted, str):
        arguments.choice("priors", wanted, ["uniform"])
        target = {name: 1 / len(training) for name in training}
    else:
        target = _checked_shares(wanted, training, below_one=False)
        missing = [name for name in training if name not in target]
        if missing:
            raise ValueError(f"priors need a share of every class, {missing[0]!r} has none")
        total = sum(target.values())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(
                f"priors are shares of all images and add up to 1, these add up to {total:.4g}"
            )
        target = {name: target[name] / total for name in training}
    shift = {name: math.log(target[name] / training[name]) for name in training}
    return Priors(target, dict(training), shift)


def of_each_class(wanted: PriorChoice, training: Mapping[str, float]) -> Priors:
    """Of classes that an image may have or not: the difference of the shares' logits is added.

    wanted: "uniform", which is one half for each, or the shares of some classes; the others keep
    that of training.

    >>> of_each_class({"cat": 0.5}, {"cat": 0.5, "dog": 0.1}).shift
    {'cat': 0.0, 'dog': 0.0}
    """
    _check_seen(training, below_one=True)
    if isinstance(wanted, str):
        arguments.choice("priors", wanted, ["uniform"])
        target = dict.fromkeys(training, 0.5)
    else:
        target = {**training, **_checked_shares(wanted, training, below_one=True)}
    shift = {name: _logit(target[name]) - _logit(training[name]) for name in training}
    return Priors(target, dict(training), shift)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _checked_shares(
    wanted: Mapping[str, float], training: Mapping[str, float], *, below_one: bool
) -> dict[str, float]:
    """The shares as floats. Raises ValueError for a name of no class, and for no share."""
    arguments.mapping("priors", wanted, "classes to shares, or 'uniform'")
    shares = {}
    for name, value in wanted.items():
        if name not in training:
            hint = did_you_mean(str(name), training)
            raise ValueError(f"priors: there is no class {name!r}; {hint}")
        below = 1.0 if below_one else None
        shares[name] = arguments.real_number(f"priors[{name!r}]", value, above=0, below=below)
    return shares


def _check_seen(training: Mapping[str, float], *, below_one: bool) -> None:
    """Raises ValueError for a class of which training saw nothing, or nothing else."""
    for name, share in training.items():
        if share <= 0:
            raise ValueError(
                f"priors can't be adjusted: training saw no image of the class {name!r}, of which "
                "the model knows nothing"
            )
        if below_one and share >= 1:
            raise ValueError(
                f"priors can't be adjusted: all images of training have the class {name!r}"
            )
