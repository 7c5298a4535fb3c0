"""Candidates: the images that a person is asked about, each with the reason why."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.corrections import image_name
from finetune.interpret.prediction_table import PredictionTable
from finetune.interpret.predictions import Predictions
from finetune.interpret.suspicious import SuspiciousLabels


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image to be judged.

    name: what the image is called in a file of corrections. label: the class it has; empty for
    another task than one class an image. suggestion: another class that it may be; None where there
    is none. reason: why it is asked about, in words. open: reads the image.
    """

    name: str
    label: str
    suggestion: str | None
    reason: str
    open: Callable[[], Any]


def candidates(
    suspicious: SuspiciousLabels | None,
    predictions: PredictionTable,
    losses: int,
    root: Path | None,
) -> list[Candidate]:
    """Suspicious labels, the surest first, and then the images with the largest losses.

    suspicious, predictions: of the same examples. losses: how many images with large losses are
    looked through; those with suspicious labels are among them, and not asked about twice. root:
    see `image_name`.
    """
    rows = []
    numbers = set()
    for label in suspicious or ():
        numbers.add(label.number)
        rows.append(
            Candidate(
                image_name(label.item, root),
                label.label,
                label.looks_like,
                f"looks like {label.looks_like}, {label.probability:.0%}; like {label.label}, "
                f"{label.own_probability:.0%}",
                _opener(predictions, label.number),
            )
        )
    for number in predictions.worst(losses) if losses else []:
        if number not in numbers:
            rows.append(_of_large_loss(predictions, number, root))
    return rows


def _of_large_loss(predictions: PredictionTable, number: int, root: Path | None) -> Candidate:
    opener = _opener(predictions, number)
    if isinstance(predictions, Predictions):
        row = predictions[number]
        reason = f"a large loss, {row.loss:.2f}: predicted {row.predicted}, {row.probability:.0%}"
        suggestion = None if row.predicted == row.target else row.predicted
        return Candidate(image_name(row.item, root), row.target, suggestion, reason, opener)
    other_row = predictions[number]
    reason = f"a large loss, {other_row.loss:.3g}: predicted {other_row.predicted}, and it is"
    reason += f" {other_row.target}"
    return Candidate(image_name(other_row.item, root), "", None, reason, opener)


def _opener(predictions: PredictionTable, number: int) -> Callable[[], Any]:
    return lambda: predictions.images([number])[0]
