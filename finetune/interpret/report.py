"""Reports: how good the predictions are for each class, or for each target of a regression."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.interpret.analysis import ClassScores, r2_scores
from finetune.interpret.page import Section
from finetune.interpret.standard_error import share_text
from finetune.tables import Table
from finetune.wording import number


class Report(ABC):
    """A row for each class or target, shown as text in a terminal and a table in a notebook."""

    rows: Sequence["ClassRow | TargetRow"]

    @abstractmethod
    def table(self) -> Table:
        """All rows, and the means below them if the report has means."""

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


class ClassRow(NamedTuple):
    """The scores of one class, in [0, 1]. support: number of examples of the class."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ClassReport(Report):
    """A row for each class; `macro` is their mean, `weighted` their mean by support.

    Both are over the classes that have examples, as the metrics of the same names are. The
    precision of a class that is never predicted is 0, and so is the recall of a class without
    examples.

    scores: of each class. share_right: share of the `example_count` examples that are right, in
    [0, 1]. share_name: what that share is called.
    """

    rows: Sequence[ClassRow]

    def __init__(
        self,
        scores: ClassScores,
        classes: Sequence[str],
        share_name: str,
        share_right: float,
        example_count: int,
    ) -> None:
        score_columns = [values.tolist() for values in scores]
        self.rows = [ClassRow(*row) for row in zip(classes, *score_columns, strict=True)]
        self.accuracy = share_right
        self._note = f"{share_name} {share_text(share_right, example_count)}"
        is_present = scores.support > 0
        if not is_present.all():
            self._note += f"; means over the {is_present.sum()} classes that have examples"
        self.macro = _mean_row("macro mean", scores, is_present.astype(int))
        self.weighted = _mean_row("weighted mean", scores, scores.support)

    def table(self) -> Table:
        cells = []
        for row in (*self.rows, self.macro, self.weighted):
            scores = [f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}"]
            cells.append([row.name, *scores, f"{row.support:,}"])
        header = ["class", "precision", "recall", "F1", "support"]
        return Table.of(header, cells, caption=self._note)

    def __repr__(self) -> str:
        return f"{self.table().text()}\n {self._note}"

    def section(self) -> Section:
        """The section of a run's report with this table."""
        return Section("Each class", [self.table()], note="Of the validation images.")


def _mean_row(name: str, scores: ClassScores, weights: np.ndarray) -> ClassRow:
    """Weighted mean of the scores over the classes; NaN without examples. weights: [C]."""

    def mean(values: np.ndarray) -> float:
        return float(np.average(values, weights=weights)) if weights.any() else float("nan")

    support = int(scores.support.sum())
    return ClassRow(name, mean(scores.precision), mean(scores.recall), mean(scores.f1), support)


class TargetRow(NamedTuple):
    """The errors of one target of a regression.

    mae: mean absolute error. rmse: root of the mean squared error. r2: explained share of the
    variance, see `analysis.r2_scores`.
    """

    name: str
    mae: float
    rmse: float
    r2: float


class TargetReport(Report):
    """A row for each target of a regression. targets, outputs: [N, K]."""

    rows: Sequence[TargetRow]

    def __init__(self, targets: np.ndarray, outputs: np.ndarray, names: Sequence[str]) -> None:
        errors = (outputs - targets).astype(np.float64)
        mean_absolute = np.abs(errors).mean(axis=0)
        root_mean_squared = np.sqrt((errors**2).mean(axis=0))
        explained = r2_scores(targets, outputs)
        columns = [values.tolist() for values in (mean_absolute, root_mean_squared, explained)]
        self.rows = [TargetRow(*row) for row in zip(names, *columns, strict=True)]

    def table(self) -> Table:
        cells = []
        for row in self.rows:
            cells.append([row.name, number(row.mae), number(row.rmse), number(row.r2)])
        return Table.of(["target", "MAE", "RMSE", "R2"], cells)
