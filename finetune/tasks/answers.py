"""Answers: what a model says of one image, for a person and as a row of a file."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from finetune.tasks.familiarity import UNKNOWN_FROM


class _Familiar:
    """What every answer has beside its values.

    unknown: how strange the image is, in [0, 1]: the share of the validation images that are less
    strange; None before `calibrate(coverage=...)`.
    """

    unknown: float | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether it is stranger than 95 % of the validation images. False where it is not told."""
        return self.unknown is not None and self.unknown > UNKNOWN_FROM

    def _strangeness(self) -> str:
        """The end of the text that shows the answer; empty for an image like others."""
        return f"; unknown: {self.unknown:.3f}" if self.is_unknown else ""


def _percentages(probabilities: Mapping[str, float]) -> str:
    """The three most probable classes."""
    most_probable = sorted(probabilities.items(), key=lambda item: -item[1])[:3]
    shown = ", ".join(f"{name!r} {value:.1%}" for name, value in most_probable)
    count = len(probabilities)
    if count > 3:
        shown += f", ... of {count} classes"
    return shown


def value_in_words(value: float, interval: tuple[float, float] | None) -> str:
    """A value to four digits, and the two numbers that the truth is between, where they are known.

    >>> value_in_words(41.512345678, None), value_in_words(41.512345678, (38, 45.25))
    ('41.51', '41.51 (38 to 45.25)')
    """
    if interval is None:
        return f"{value:.4g}"
    low, high = interval
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


class _OneClass(NamedTuple):
    label: str
    probability: float
    probabilities: dict[str, float]


class Prediction(_OneClass, _Familiar):
    """One class: `label` is the most probable one. probabilities: by class name, in order.

    set: the classes that hold the truth as often as `calibrate(coverage=...)` was asked for, most
    probable first, never empty; None before that. It is an attribute beside the three that unpack:
    `label, probability, probabilities = learner.predict(image)`.

    >>> answer = Prediction("cat", 0.9, {"cat": 0.9, "dog": 0.1})
    >>> label, probability, probabilities = answer
    >>> answer.label, answer.is_unknown
    ('cat', False)
    """

    set: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """The three most probable classes.

        >>> Prediction("cat", 0.9, {"cow": 0.0125, "cat": 0.9, "dog": 0.075, "eel": 0.0125})
        Prediction('cat' 90.0%, 'dog' 7.5%, 'cow' 1.2%, ... of 4 classes)
        """
        shown = _percentages(self.probabilities)
        if self.set:
            shown += f"; set: {', '.join(self.set)}"
        return f"Prediction({shown}{self._strangeness()})"


class _SeveralClasses(NamedTuple):
    labels: tuple[str, ...]
    probabilities: dict[str, float]


class LabelsPrediction(_SeveralClasses, _Familiar):
    """Any number of classes: `labels` are those above their thresholds, in order.

    probabilities: by class name. set: the classes whose probability is high enough that a class
    which is there is among them as often as `calibrate(coverage=...)` was asked for, most probable
    first; None before that.

    >>> answer = LabelsPrediction(("indoor", "table"), {"indoor": 0.9, "sea": 0.1, "table": 0.7})
    >>> answer.labels
    ('indoor', 'table')
    """

    set: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """The labels, and the three most probable classes.

        >>> LabelsPrediction(("sea",), {"sea": 0.98765432109876, "sky": 0.1})
        LabelsPrediction(('sea',), 'sea' 98.8%, 'sky' 10.0%)
        """
        shown = f"{self.labels}, {_percentages(self.probabilities)}"
        if self.set is not None:
            shown += f"; set: {', '.join(self.set) or 'none'}"
        return f"LabelsPrediction({shown}{self._strangeness()})"


class _Values(NamedTuple):
    values: dict[str, float]


class ValuesPrediction(_Values, _Familiar):
    """Numbers: `values` by the name of the target, in the targets' own units.

    interval: by target, two numbers between which the truth is as often as
    `calibrate(coverage=...)` was asked for; None before that.

    >>> answer = ValuesPrediction({"age": 41.5})
    >>> answer.value
    41.5
    """

    interval: dict[str, tuple[float, float]] | None = None

    def __repr__(self) -> str:
        """The values to four digits.

        >>> ValuesPrediction({"age": 41.512345678, "height": 1.8})
        ValuesPrediction('age' 41.51, 'height' 1.8)
        """
        values = []
        for name, value in self.values.items():
            interval = None if self.interval is None else self.interval[name]
            values.append(f"{name!r} {value_in_words(value, interval)}")
        return f"ValuesPrediction({', '.join(values)}{self._strangeness()})"

    @property
    def value(self) -> float:
        """The only value. Raises ValueError where there are several."""
        if len(self.values) > 1:
            raise ValueError(f"there are several values, see .values: {', '.join(self.values)}")
        (value,) = self.values.values()
        return value


Answer: TypeAlias = Prediction | LabelsPrediction | ValuesPrediction


class FilePrediction(NamedTuple):
    """What is predicted for a file; for one that can't be read, only `path` and `error` are set.

    label: the class; for several labels, those above their thresholds, joined by commas; None for
    a regression. probability: of the one class. probabilities: by class name, or the values of a
    regression by target. set, interval, unknown: those of the answer; None before
    `calibrate(coverage=...)`.

    >>> row = FilePrediction("a.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.1})
    >>> list(row.to_dict())  # sets and the like only after calibrate(coverage=...)
    ['path', 'label', 'probability', 'probabilities', 'error']
    """

    path: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] = {}  # noqa: RUF012 - nobody gets it to write to
    error: str = ""
    set: tuple[str, ...] | None = None
    interval: dict[str, tuple[float, float]] | None = None
    unknown: float | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether the image is stranger than 95 % of the validation images."""
        return self.unknown is not None and self.unknown > UNKNOWN_FROM

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, without those that need a calibration where there was none."""
        content = self._asdict()
        for name in ("set", "interval", "unknown"):
            if content[name] is None:
                del content[name]
        return content
