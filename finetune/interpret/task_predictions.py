"""Predictions where an image has several labels, or numbers; tables of arrays."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.interpret import values
from finetune.interpret.analysis import class_scores_of
from finetune.interpret.image_grids import plot_images
from finetune.interpret.report import ClassReport, TargetReport
from finetune.interpret.table import as_html, as_text, shortened
from finetune.wording import did_you_mean, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10
_HEADER = ("item", "target", "predicted", "loss")


class TaskRow(NamedTuple):
    """target, predicted: in words. outputs: [C] probabilities, or values."""

    item: str | int
    target: str
    predicted: str
    loss: float
    outputs: np.ndarray


class TaskPredictions(ABC):
    """A row for each example, in the order of the data.

    items: paths, or numbers. classes: names of the labels or targets. targets, outputs: [N, C].
    losses: [N]. image: opens that of a row, by its number; None where there are none.
    """

    def __init__(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Any,
        outputs: Any,
        losses: Any,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        self.items, self.classes = tuple(items), tuple(classes)
        self.targets, self.outputs = np.asarray(targets), np.asarray(outputs)
        self.losses = np.asarray(losses, dtype=np.float64)
        shape = (len(self.items), len(self.classes))
        if not self.targets.shape == self.outputs.shape == shape or len(self.losses) != shape[0]:
            raise ValueError(
                f"targets and outputs must be [{shape[0]}, {shape[1]}] and losses as long, got "
                f"{self.targets.shape}, {self.outputs.shape} and {self.losses.shape}"
            )
        self.image = image

    @abstractmethod
    def words(self, rows: np.ndarray, *, predicted: bool) -> list[str]:
        """Each row of targets or outputs in words."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> TaskRow:
        (target,) = self.words(self.targets[index][None], predicted=False)
        (found,) = self.words(self.outputs[index][None], predicted=True)
        loss = float(self.losses[index])
        return TaskRow(self.items[index], target, found, loss, self.outputs[index])

    def __iter__(self) -> Iterator[TaskRow]:
        return (self[i] for i in range(len(self)))

    def top_losses(self, k: int = SHOWN) -> list[TaskRow]:
        """The `k` rows with the highest losses, highest first. Raises ValueError unless 1 <= k."""
        return [self[i] for i in self._worst(k)]

    def _worst(self, k: int) -> list[int]:
        if k < 1:
            raise ValueError(f"the number of rows must be positive, got {k}")
        order: list[int] = np.argsort(-self.losses, kind="stable")[:k].tolist()
        return order

    def _cells(self, width: int) -> list[list[str]]:
        rows = self.top_losses(min(SHOWN, len(self)))
        return [[shortened(r.item, width), r.target, r.predicted, number(r.loss)] for r in rows]

    def __str__(self) -> str:
        return f"{self!r}, highest losses first\n{as_text(_HEADER, self._cells(48), left=3)}"

    def _repr_html_(self) -> str:
        caption = f"{self!r}, highest losses first"
        return as_html(_HEADER, self._cells(80), left=3, caption=caption)

    def to_csv(self, path: str | Path) -> None:
        """A row an example; after the columns of the table, the output for each class or target."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            writer = csv.writer(stream)
            writer.writerow([*_HEADER, *(f"output for {name}" for name in self.classes)])
            for *cells, outputs in self:
                writer.writerow([*cells, *(f"{v:.6g}" for v in outputs.tolist())])

    def plot_top_losses(self, k: int = 12) -> Figure:
        """The images with the highest losses, with what was predicted and what is true."""
        return self._plot(k, lambda row: f"loss {number(row.loss)}: ")

    def show_results(self, count: int = 12) -> Figure:
        """The same without the losses."""
        return self._plot(count, lambda row: "")

    def _plot(self, count: int, start: Callable[[TaskRow], str]) -> Figure:
        if self.image is None:
            raise ValueError("these predictions know no images; use ImageDataLoaders")
        worst = self._worst(count)
        rows = [self[i] for i in worst]
        titles = [f"{start(row)}{row.predicted} (is {row.target})" for row in rows]
        return plot_images([self.image(i) for i in worst], titles)


class LabelsPredictions(TaskPredictions):
    """Several labels an image: outputs are probabilities, labels those above their thresholds.

    >>> LabelsPredictions(["a.jpg"], ["cat", "dog"], [[1, 0]], [[0.9, 0.7]], [0.6])
    LabelsPredictions(1 example, 2 classes, 0 all right)
    """

    def __init__(
        self, *table: Any, thresholds: Mapping[str, float] | None = None, **options: Any
    ) -> None:
        super().__init__(*table, **options)
        given = thresholds or {}
        for name in given:
            if name not in self.classes:
                raise ValueError(f"there is no class {name!r}; {did_you_mean(name, self.classes)}")
        self.thresholds = np.array([given.get(name, 0.5) for name in self.classes])
        self.predicted = self.outputs >= self.thresholds

    @property
    def probabilities(self) -> np.ndarray:
        """[N, C], the outputs."""
        return self.outputs

    def at_thresholds(self, thresholds: Mapping[str, float]) -> LabelsPredictions:
        """The same probabilities with other labels; of a class that is left out from 0.5 on."""
        return LabelsPredictions(
            self.items, self.classes, self.targets, self.outputs, self.losses,
            thresholds=thresholds, image=self.image,
        )  # fmt: skip

    def words(self, rows: np.ndarray, *, predicted: bool) -> list[str]:
        there = rows >= self.thresholds if predicted else rows > 0.5
        names = np.array(self.classes, dtype=object)
        return [", ".join(names[row]) or "(none)" for row in there]

    def __repr__(self) -> str:
        exact = int((self.predicted == (self.targets > 0.5)).all(axis=1).sum())
        examples = f"{len(self):,} example{'' if len(self) == 1 else 's'}"
        return f"LabelsPredictions({examples}, {len(self.classes)} classes, {exact:,} all right)"

    def report(self) -> ClassReport:
        """Precision, recall and F1 of each class, and their means."""
        true = self.targets > 0.5
        hits = (true & self.predicted).sum(axis=0)
        scores = class_scores_of(hits, true.sum(axis=0), self.predicted.sum(axis=0))
        exact = float((true == self.predicted).all(axis=1).mean())
        return ClassReport(scores, self.classes, "all labels right", exact)


class ValuesPredictions(TaskPredictions):
    """Numbers: outputs are values in the targets' own unit.

    >>> ValuesPredictions(["a.jpg"], ["age"], [[30.0]], [[32.5]], [6.25])
    ValuesPredictions(1 example, mean error: age 2.5000)
    """

    def words(self, rows: np.ndarray, *, predicted: bool) -> list[str]:
        if len(self.classes) == 1:
            return [f"{value:.6g}" for (value,) in rows.tolist()]
        pairs = (zip(self.classes, row, strict=True) for row in rows.tolist())
        return [", ".join(f"{name} {value:.6g}" for name, value in row) for row in pairs]

    def __repr__(self) -> str:
        errors = np.abs(self.outputs - self.targets).mean(axis=0).tolist()
        shown = ", ".join(f"{n} {number(e)}" for n, e in zip(self.classes, errors, strict=True))
        examples = f"{len(self):,} example{'' if len(self) == 1 else 's'}"
        return f"ValuesPredictions({examples}, mean error: {shown})"

    def report(self) -> TargetReport:
        """Mean absolute error, root of the mean squared error and R2 of each target."""
        return TargetReport(self.targets, self.outputs, self.classes)

    def plot(self) -> Figure:
        """What was predicted over what is true, for each target."""
        return values.plot_values(self.targets, self.outputs, self.classes)
