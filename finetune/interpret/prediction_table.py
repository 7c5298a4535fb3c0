"""PredictionTable: the base of every task's table of predictions beside what is true."""

from __future__ import annotations

import copy
import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

import numpy as np
from typing_extensions import Self

from finetune import arguments
from finetune.files.replacing import replacing_text
from finetune.interpret.page import Drawing, Section
from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.interpret.calibration import Calibration
    from finetune.interpret.confusion import Confusion
    from finetune.interpret.coverage import CoverageCurve
    from finetune.interpret.report import Report
    from finetune.interpret.suspicious import SuspiciousLabels

ROWS_SHOWN = 10
"""Rows that are printed of a longer table."""
IMAGES_SHOWN = 12
"""Images that are plotted unless the caller asks for another number."""


class Row(Protocol):
    """One example.

    item: its path or number. target, predicted: in words. loss: in nats, or in the unit of the loss
    function. fold: number of the fold of a cross-validation that it was predicted in, from 0; None
    without one.
    """

    @property
    def item(self) -> str | int: ...
    @property
    def target(self) -> str: ...
    @property
    def predicted(self) -> str: ...
    @property
    def loss(self) -> float: ...
    @property
    def fold(self) -> int | None: ...


class PredictionTable(ABC):
    """A row for each example, in the order of the data.

    items: paths or numbers. classes: names of the classes or targets. targets: [N] or [N, C].
    losses: [N]. image: opens the image of a row by its number; None where the data has no images.
    folds: number of the fold that each row was predicted in, see `in_folds`.

    Methods that mean nothing for the table's task raise ValueError, and name one that does.
    """

    header: ClassVar[tuple[str, ...]]
    word_columns: ClassVar[int] = 3  # item, target, predicted; the others hold numbers

    def __init__(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Any,
        losses: Any,
        image: Callable[[int], Any] | None,
    ) -> None:
        self.items = tuple(items)
        self.classes = tuple(classes)
        self.targets = np.asarray(targets)
        self.losses = np.asarray(losses, dtype=np.float64)
        self.image = image
        self.folds: tuple[int, ...] | None = None

    # --- what the table of each task defines

    @abstractmethod
    def __getitem__(self, number: int) -> Row:
        """The row of one example."""

    @abstractmethod
    def __repr__(self) -> str:
        """One line with the number of examples and how good the predictions are."""

    @abstractmethod
    def report(self) -> Report:
        """How good the predictions are for each class, or each target."""

    @abstractmethod
    def cells(self, row: Any, item_width: int) -> list[str]:
        """A row as texts, one for each name in `header`. item_width: most letters of the item."""

    @abstractmethod
    def csv_columns(self) -> list[str]:
        """Names of the columns that a CSV file has after those of `header`."""

    @abstractmethod
    def csv_values(self, number: int) -> Sequence[float]:
        """The values of one example in the columns of `csv_columns`."""

    # --- rows

    def in_folds(self, folds: Sequence[int] | None) -> Self:
        """The same table, whose rows know the fold of a cross-validation that they are of."""
        if folds is not None and len(folds) != len(self):
            raise ValueError(f"got {len(folds)} folds for {len(self)} rows; each row needs one")
        table = copy.copy(self)
        table.folds = None if folds is None else tuple(folds)
        return table

    def fold_of(self, number: int) -> int | None:
        """The fold of a row, by its number; None without cross-validation."""
        return None if self.folds is None else self.folds[number]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def top_losses(self, k: int = ROWS_SHOWN) -> Sequence[Row]:
        """The `k` rows with the highest losses, highest first. Raises ValueError unless 1 <= k."""
        return [self[number] for number in self.worst(k)]

    def worst(self, k: int) -> list[int]:
        """Numbers of the `k` rows with the highest losses, highest first."""
        arguments.whole_number("k", k, at_least=1)
        order: list[int] = np.argsort(-self.losses, kind="stable")[:k].tolist()
        return order

    # --- as text, HTML and CSV

    def _worst_rows(self, item_width: int) -> Table:
        rows = self.top_losses(min(ROWS_SHOWN, len(self)))
        cells = [self.cells(row, item_width) for row in rows]
        caption = f"{self!r}, highest losses first"
        return Table.of(self.header, cells, words=self.word_columns, caption=caption)

    def __str__(self) -> str:
        table = self._worst_rows(item_width=48)
        return f"{table.caption}\n{table.text()}"

    def _repr_html_(self) -> str:
        return self._worst_rows(item_width=80).html()

    @property
    def _row_columns(self) -> Sequence[str]:
        """The fields of a row that a file has as columns."""
        return self.header if self.folds is None else (*self.header, "fold")

    def to_csv(self, path: str | Path) -> None:
        """Writes all rows, with a column for each class or target after those of the table."""
        # names of files need not be valid UTF-8
        with replacing_text(arguments.path("path", path), errors="backslashreplace") as stream:
            writer = csv.writer(stream)
            writer.writerow([*self._row_columns, *self.csv_columns()])
            for number, row in enumerate(self):
                cells = [getattr(row, name) for name in self._row_columns]
                values = [f"{value:.6g}" for value in self.csv_values(number)]
                writer.writerow([*cells, *values])

    def to_jsonl(self, path: str | Path) -> None:
        """Writes all rows as lines with a JSON object each, whose keys are the columns of `to_csv`.

        A value that is not finite, which JSON does not have, is null.
        """
        with replacing_text(arguments.path("path", path), errors="backslashreplace") as stream:
            for number, row in enumerate(self):
                record = {name: getattr(row, name) for name in self._row_columns}
                values = [float(value) for value in self.csv_values(number)]
                record.update(zip(self.csv_columns(), values, strict=True))
                for name, value in record.items():
                    if isinstance(value, float) and not math.isfinite(value):
                        record[name] = None
                stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    # --- images

    def images(self, numbers: Sequence[int]) -> list[Any]:
        """Opens the images of these rows, as PIL images.

        Raises ImageError if a file is gone, and ValueError if the data has no images.
        """
        if self.image is None:
            raise ValueError(
                "these predictions have no images: their data gave tensors only; "
                "use ImageDataLoaders, or the tables and the other plots"
            )
        return [self.image(number) for number in numbers]

    @abstractmethod
    def plot_top_losses(self, k: int = IMAGES_SHOWN) -> Figure:
        """Plots the images with the highest losses, highest first."""

    @abstractmethod
    def show_results(self, count: int = IMAGES_SHOWN) -> Figure:
        """Plots images with what was predicted."""

    # --- a run's report

    def figures(self) -> dict[str, tuple[Figure, str]]:
        """The figures of a run's report, by name: the figure, and what it shows in words."""
        worst = self.plot_top_losses(min(IMAGES_SHOWN, len(self)))
        return {"top_losses": (worst, "validation images with the largest loss")}

    @abstractmethod
    def sections(self, drawings: Mapping[str, Drawing], file: str) -> list[Section]:
        """Sections of a run's report.

        drawings: of `figures`, by name. file: name of the file that has all rows.
        """

    def worst_section(self, drawings: Mapping[str, Drawing], file: str) -> Section:
        """The section with the images that have the highest losses."""
        return Section(
            "The worst images",
            [drawings["top_losses"]],
            note="Validation images with the largest loss: hard ones, or labels that are wrong. "
            f"All of them are in {file}.",
        )

    # --- for one class per example only; `Predictions` overrides these

    def _refuse(self, method: str) -> NoReturn:
        raise ValueError(
            f"{method} is for one class per example, and this is a table of "
            f"{type(self).__name__}; report() says how good each of {len(self.classes)} "
            "classes or targets is"
        )

    def confusion_matrix(self) -> np.ndarray:
        """Counts of examples, int64 [C, C]: rows are true classes, columns predicted classes."""
        self._refuse("confusion_matrix()")

    def most_confused(self, min_count: int = 1) -> list[Confusion]:
        """The mistakes made at least `min_count` times, the most frequent first."""
        self._refuse("most_confused()")

    def plot_confusion_matrix(self, *, normalize: bool = False) -> Figure:
        """Plots the confusion matrix. normalize: percentages of each row instead of counts."""
        self._refuse("plot_confusion_matrix()")

    def calibration(self, bins: int = 15) -> Calibration:
        """Accuracy by probability, in `bins` equal parts, and the expected calibration error."""
        self._refuse("calibration()")

    def plot_calibration(self, bins: int = 15) -> Figure:
        """Plots the reliability diagram; see `calibration`."""
        self._refuse("plot_calibration()")

    def coverage(self, requested: Sequence[float] = ()) -> CoverageCurve:
        """How often sets of `calibrate(coverage=...)` hold the truth, and how large they are.

        requested: coverages, in (0, 1). See `CoverageCurve`.
        """
        self._refuse("coverage()")

    def plot_coverage(self) -> Figure:
        """Plots how often sets of classes hold the truth, and their sizes; see `coverage`."""
        self._refuse("plot_coverage()")

    def temperature(self) -> float:
        """The divisor of the outputs for which the probabilities fit the targets best."""
        self._refuse("temperature()")

    def suspicious_labels(self, count: int = 20) -> SuspiciousLabels:
        """Labels that are probably wrong, the surest first, if the model has not seen them."""
        self._refuse("suspicious_labels()")

    def best_thresholds(self) -> dict[str, float]:
        """The threshold of each class with the best F1; for several labels per example only."""
        raise ValueError(
            "thresholds are for several labels per example (task='multi_label'), and this is a "
            f"table of {type(self).__name__}"
        )
