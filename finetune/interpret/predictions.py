"""Predictions: what a classifier says of each example, beside what is true; a table of arrays."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.interpret import analysis, confusion, results
from finetune.interpret.calibration import Calibration
from finetune.interpret.report import ClassReport
from finetune.interpret.table import as_html, as_text, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
"""Rows of a table that stands for more."""
_HEADER = ("item", "target", "predicted", "probability", "loss")


class PredictionRow(NamedTuple):
    """item: path or number. probability: of the predicted class. probabilities: [C]."""

    item: str | int
    target: str
    predicted: str
    probability: float
    loss: float
    probabilities: np.ndarray


class Confusion(NamedTuple):
    """How many examples of the class `target` were predicted as another one."""

    target: str
    predicted: str
    count: int  # type: ignore[assignment]  # in place of tuple's method


class Predictions:
    """A row for each example, in the order of the data; of classifiers with one class an example.

    items: paths, or numbers. classes: names. targets: [N] class numbers. scores: [N, C] logits, or
    log-probabilities. losses: [N]. temperature: what the scores are divided by. image: opens that
    of a row, by its number; None where nothing is known of images.

    >>> scores = np.log([[0.9, 0.1], [0.6, 0.4]])
    >>> found = Predictions(["a.jpg", "b.jpg"], ["cat", "dog"], [0, 1], scores, [0.11, 0.92])
    >>> found
    Predictions(2 examples, 2 classes, 1 mistake, accuracy 0.5000)
    >>> found.most_confused()
    [Confusion(target='dog', predicted='cat', count=1)]
    """

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
        self.items, self.classes = tuple(items), tuple(classes)
        self.targets = np.asarray(targets)
        self.scores = np.asarray(scores)
        self.losses = np.asarray(losses, dtype=np.float64)
        self._check()
        self.targets = self.targets.astype(np.int64, copy=False)  # products of small types overflow
        self.image = image
        self.probabilities = analysis.softmax(self.scores, temperature).astype(np.float32)
        self.predicted = self.scores.argmax(axis=1)
        self.probability = self.probabilities.max(axis=1)

    def _check(self) -> None:
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
        low, high = self.targets.min(), self.targets.max()
        if not np.issubdtype(self.targets.dtype, np.integer) or low < 0:
            raise ValueError(f"targets must be class numbers from 0 on, got {self.targets[:3]}")
        if high >= len(self.classes):
            raise ValueError(f"there is a target {high}, but {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> PredictionRow:
        return PredictionRow(
            self.items[number],
            self.classes[self.targets[number]],
            self.classes[self.predicted[number]],
            float(self.probability[number]),
            float(self.losses[number]),
            self.probabilities[number],
        )

    def __iter__(self) -> Iterator[PredictionRow]:
        return (self[i] for i in range(len(self)))

    @property
    def correct(self) -> np.ndarray:
        """[N] bool."""
        found: np.ndarray = self.targets == self.predicted
        return found

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    # --- tables

    def __repr__(self) -> str:
        wrong = int((~self.correct).sum())
        mistakes = f"{wrong:,} mistake" + ("" if wrong == 1 else "s")
        return (
            f"Predictions({len(self):,} examples, {len(self.classes)} classes, {mistakes}, "
            f"accuracy {self.accuracy:.4f})"
        )

    def _worst_cells(self, width: int) -> list[list[str]]:
        return [
            [shortened(row.item, width), *row[1:3], f"{row.probability:.3f}", f"{row.loss:.3f}"]
            for row in self.top_losses(min(SHOWN, len(self)))
        ]

    def __str__(self) -> str:
        table = as_text(_HEADER, self._worst_cells(48), left=3)
        return f"{self!r}, highest losses first\n{table}"

    def _repr_html_(self) -> str:
        caption = f"{self!r}, highest losses first"
        return as_html(_HEADER, self._worst_cells(80), left=3, caption=caption)

    def to_csv(self, path: str | Path) -> None:
        """A row an example; after the columns of the table, the probability of each class."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            writer = csv.writer(stream)
            writer.writerow([*_HEADER, *(f"probability of {name}" for name in self.classes)])
            for *cells, probabilities in self:
                writer.writerow([*cells, *(f"{p:.6g}" for p in probabilities.tolist())])

    # --- where it fails

    def confusion_matrix(self) -> np.ndarray:
        """int64 [C, C]: rows are what the examples are, columns what was predicted."""
        return analysis.confusion_matrix(self.targets, self.predicted, len(self.classes))

    def most_confused(self, min_count: int = 1) -> list[Confusion]:
        """The mistakes made at least `min_count` times, the most frequent first."""
        rows = analysis.most_confused(self.confusion_matrix(), min_count)
        return [Confusion(self.classes[t], self.classes[p], count) for t, p, count in rows]

    def top_losses(self, k: int = SHOWN) -> list[PredictionRow]:
        """The `k` rows with the highest losses, highest first. Raises ValueError unless 1 <= k."""
        return [self[i] for i in self._worst(k)]

    def _worst(self, k: int) -> list[int]:
        if k < 1:
            raise ValueError(f"the number of rows must be positive, got {k}")
        order: list[int] = np.argsort(-self.losses, kind="stable")[:k].tolist()
        return order

    def report(self) -> ClassReport:
        """Precision, recall and F1 of each class, and their means."""
        scores = analysis.class_scores(self.targets, self.predicted, len(self.classes))
        return ClassReport(scores, self.classes, "accuracy", self.accuracy)

    # --- whether its probabilities can be trusted

    def calibration(self, bins: int = 15) -> Calibration:
        """Accuracy by probability, and the expected calibration error."""
        return Calibration.of(self.probability, self.correct, bins)

    def temperature(self) -> float:
        """What to divide the scores by for the likeliest probabilities: above 1 where a model is
        too sure of itself. It changes no predicted class.

        Source: Guo et al., "On Calibration of Modern Neural Networks" (2017). Where every example
        is predicted right nothing shows how sure is too sure, and it is 1, with a warning.
        """
        if self.correct.all():
            warnings.warn(
                f"all {len(self)} predictions are right, which says nothing about how sure the "
                "model may be: the temperature stays 1; calibrate on more data",
                stacklevel=2,
            )
            return 1.0
        return analysis.fit_temperature(self.scores, self.targets)

    def at_temperature(self, temperature: float) -> Predictions:
        """The same predictions with other probabilities; losses stay what they were."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        return Predictions(
            self.items, self.classes, self.targets, self.scores, self.losses,
            temperature=temperature, image=self.image,
        )  # fmt: skip

    # --- images

    def plot_confusion_matrix(self, *, normalize: bool = False) -> Figure:
        """What is taken for what. normalize: shares of each row in percent instead of counts."""
        return confusion.plot_confusion_matrix(
            self.confusion_matrix(), self.classes, normalize=normalize
        )

    def plot_calibration(self, bins: int = 15) -> Figure:
        """Reliability diagram; see `calibration`."""
        return self.calibration(bins).plot()

    def plot_top_losses(self, k: int = 12) -> Figure:
        """The images with the highest losses, highest first."""
        return results.plot_top_losses(self.images(self._worst(k)), self.top_losses(k))

    def show_results(self, count: int = 12) -> Figure:
        """Images with what was predicted: mistakes first, then some that are right."""
        wrong = [i for i in self._worst(len(self)) if not self.correct[i]]
        shown = results.choose(wrong, np.flatnonzero(self.correct).tolist(), count)
        rows = [self[i] for i in shown]
        return results.plot_results(self.images(shown), rows, len(wrong), len(self))

    def images(self, numbers: Sequence[int]) -> list[Any]:
        """PIL images of these rows. Raises ImageError for a file that is gone, ValueError where
        the data knew no images."""
        if self.image is None:
            raise ValueError(
                "these predictions know no images: their data gave tensors only; "
                "use ImageDataLoaders, or the tables and the other plots"
            )
        return [self.image(i) for i in numbers]
