"""Predictions: the table of a classifier with one class per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from finetune import arguments
from finetune.interpret import analysis, confusion, results
from finetune.interpret.calibration import Calibration
from finetune.interpret.confusion import Confusion
from finetune.interpret.coverage import REQUESTED, CoverageCurve
from finetune.interpret.page import Drawing, Part, Section
from finetune.interpret.prediction_table import IMAGES_SHOWN, PredictionTable
from finetune.interpret.report import ClassReport
from finetune.interpret.standard_error import share_text
from finetune.interpret.suspicious import SuspiciousLabels, suspicious_labels
from finetune.options import takes_options
from finetune.tables import Table, end_of
from finetune.wording import counted, warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONFUSIONS_LISTED = 10


class PredictionRow(NamedTuple):
    """One example.

    item: path or number. target, predicted: names of classes. probability: of the predicted class.
    probabilities: [C]. fold: see `prediction_table.Row`.
    """

    item: str | int
    target: str
    predicted: str
    probability: float
    loss: float
    probabilities: np.ndarray
    fold: int | None = None


class Predictions(PredictionTable):
    """A row for each example, in the order of the data; every example has one class.

    items: paths or numbers. classes: names. targets: [N] class numbers. scores: [N, C] logits or
    log-probabilities. losses: [N]. temperature: what the scores are divided by. image: opens the
    image of a row by its number; None where the data has no images.

    >>> scores = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> table = Predictions(["a.jpg", "b.jpg"], ["cat", "dog"], [0, 1], scores, [0.11, 0.92])
    >>> table
    Predictions(2 examples, 2 classes, 1 mistake, accuracy 0.5000 ± 0.3536)
    >>> table.most_confused()
    [Confusion(target='dog', predicted='cat', count=1)]
    """

    header: ClassVar[tuple[str, ...]] = ("item", "target", "predicted", "probability", "loss")

    def __init__(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Any,
        scores: Any,
        losses: Any,
        *,
        temperature: float = 1.0,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(items, classes, targets, losses, image)
        arguments.real_number("temperature", temperature, above=0)
        self.scores = np.asarray(scores)
        self._check_shapes()
        self._check_targets()
        self.targets = self.targets.astype(np.int64, copy=False)  # products of small types overflow
        self.probabilities = analysis.softmax(self.scores, temperature).astype(np.float32)
        self.predicted = self.scores.argmax(axis=1)
        self.probability = self.probabilities.max(axis=1)

    def _check_shapes(self) -> None:
        if self.scores.ndim != 2 or self.scores.shape[1] != len(self.classes):
            raise ValueError(
                f"scores must be [N, {len(self.classes)}], a column a class, "
                f"got shape {self.scores.shape}"
            )
        counts = {len(self.items), len(self.targets), len(self.scores), len(self.losses)}
        if len(counts) > 1 or self.targets.ndim != 1 or self.losses.ndim != 1:
            raise ValueError(
                f"items, targets, scores and losses need one row an example, got {len(self.items)} "
                f"items and shapes {self.targets.shape}, {self.scores.shape}, {self.losses.shape}"
            )
        if not len(self.items):
            raise ValueError("there are no examples to predict")

    def _check_targets(self) -> None:
        are_integers = np.issubdtype(self.targets.dtype, np.integer)
        if not are_integers or self.targets.min() < 0:
            raise ValueError(f"targets must be class numbers from 0 on, got {self.targets[:3]}")
        highest = self.targets.max()
        if highest >= len(self.classes):
            raise ValueError(f"there is a target {highest}, but {len(self.classes)} classes")

    def __getitem__(self, number: int) -> PredictionRow:
        return PredictionRow(
            self.items[number],
            self.classes[self.targets[number]],
            self.classes[self.predicted[number]],
            float(self.probability[number]),
            float(self.losses[number]),
            self.probabilities[number],
            self.fold_of(number),
        )

    @property
    def correct(self) -> np.ndarray:
        """Whether each example is predicted right, [N] bool."""
        is_correct: np.ndarray = self.targets == self.predicted
        return is_correct

    @property
    def accuracy(self) -> float:
        """Share of the examples that are predicted right, in [0, 1]."""
        return float(self.correct.mean())

    # --- tables

    def __repr__(self) -> str:
        mistakes = counted(int((~self.correct).sum()), "mistake")
        return (
            f"Predictions({len(self):,} examples, {len(self.classes)} classes, {mistakes}, "
            f"accuracy {share_text(self.accuracy, len(self))})"
        )

    def cells(self, row: PredictionRow, item_width: int) -> list[str]:
        item = end_of(row.item, item_width)
        return [item, row.target, row.predicted, f"{row.probability:.3f}", f"{row.loss:.3f}"]

    def csv_columns(self) -> list[str]:
        return [f"probability of {name}" for name in self.classes]

    def csv_values(self, number: int) -> Sequence[float]:
        probabilities: list[float] = self.probabilities[number].tolist()
        return probabilities

    def top_losses(self, k: int = 10) -> list[PredictionRow]:
        return [self[number] for number in self.worst(k)]

    # --- where it fails

    def confusion_matrix(self) -> np.ndarray:
        return analysis.confusion_matrix(self.targets, self.predicted, len(self.classes))

    @takes_options()
    def most_confused(self, min_count: int = 1) -> list[Confusion]:
        mistakes = analysis.most_confused(self.confusion_matrix(), min_count)
        return [
            Confusion(self.classes[target], self.classes[predicted], count)
            for target, predicted, count in mistakes
        ]

    def report(self) -> ClassReport:
        """Precision, recall and F1 of each class, and their means."""
        scores = analysis.class_scores(self.targets, self.predicted, len(self.classes))
        return ClassReport(scores, self.classes, "accuracy", self.accuracy, len(self))

    def suspicious_labels(self, count: int = 20) -> SuspiciousLabels:
        """Labels that are probably wrong, the surest first; `.plot()` shows the images.

        The table must be of a model that has not learned these labels: of validation images, or of
        `cross_validate`, whose table has all images. Raises ValueError unless count >= 1.
        """
        return suspicious_labels(
            self.probabilities, self.targets, self.items, self.classes, count, self.image
        )

    # --- whether its probabilities can be trusted

    def calibration(self, bins: int = 15) -> Calibration:
        return Calibration.of(self.probability, self.correct, bins)

    def coverage(self, requested: Sequence[float] = REQUESTED) -> CoverageCurve:
        return CoverageCurve.of(self.probabilities, self.targets, requested)

    def temperature(self) -> float:
        """The divisor of the scores for which the probabilities fit the targets best.

        It is above 1 if the model is too sure of itself, and changes no predicted class. If every
        example is predicted right, the best divisor would be as small as possible; then a warning
        is given, and it is 1.

        Source: Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        if self.correct.all():
            warn(
                f"all {len(self)} predictions are right, which says nothing about how sure the "
                "model may be: the temperature stays 1; calibrate on more data"
            )
            return 1.0
        return analysis.fit_temperature(self.scores, self.targets)

    def at_temperature(self, temperature: float) -> Predictions:
        """The same predictions with other probabilities; the losses stay as they are."""
        return self.adjusted(self.scores, temperature)

    def adjusted(self, scores: Any, temperature: float) -> Predictions:
        """The same examples with other scores [N, C]; the losses stay as they are."""
        return Predictions(
            self.items,
            self.classes,
            self.targets,
            scores,
            self.losses,
            temperature=temperature,
            image=self.image,
        ).in_folds(self.folds)

    # --- figures

    def plot_confusion_matrix(self, *, normalize: bool = False) -> Figure:
        arguments.flag("normalize", normalize)
        return confusion.plot_confusion_matrix(
            self.confusion_matrix(), self.classes, normalize=normalize
        )

    def plot_calibration(self, bins: int = 15) -> Figure:
        return self.calibration(bins).plot()

    def plot_coverage(self) -> Figure:
        return self.coverage().plot()

    def plot_top_losses(self, k: int = IMAGES_SHOWN) -> Figure:
        """Plots the images with the highest losses, highest first."""
        return results.plot_top_losses(self.images(self.worst(k)), self.top_losses(k))

    def show_results(self, count: int = IMAGES_SHOWN) -> Figure:
        """Plots images with what was predicted: mistakes first, then some that are right."""
        mistakes = [number for number in self.worst(len(self)) if not self.correct[number]]
        shown = results.choose(mistakes, np.flatnonzero(self.correct).tolist(), count)
        rows = [self[number] for number in shown]
        return results.plot_results(self.images(shown), rows, len(mistakes), len(self))

    # --- a run's report

    def figures(self) -> dict[str, tuple[Figure, str]]:
        return {
            **super().figures(),
            "confusion_matrix": (self.plot_confusion_matrix(), "confusion matrix"),
            "calibration": (self.plot_calibration(), "share that is right over probability"),
        }

    def sections(self, drawings: Mapping[str, Drawing], file: str) -> list[Section]:
        return [
            self.report().section(),
            self._confusion_section(drawings["confusion_matrix"]),
            self.worst_section(drawings, file),
            Section(
                "How sure it is",
                [drawings["calibration"]],
                note="Bars below the line: surer than it should be.",
            ),
        ]

    def _confusion_section(self, drawing: Drawing) -> Section:
        contents: list[Part] = [drawing]
        cells = []
        for target, predicted, count in self.most_confused()[:_CONFUSIONS_LISTED]:
            cells.append([target, predicted, f"{count:,}"])
        if cells:
            contents.append(Table.of(["is", "taken for", "images"], cells, words=2))
        return Section("What is taken for what", contents)
