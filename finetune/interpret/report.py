"""How good the predictions are for each class, or each target, as a table."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.interpret.analysis import ClassScores, r2_scores
from finetune.interpret.page import Section
from finetune.tables import Table
from finetune.wording import number


class Report(ABC):
    """Rows for classes or targets: text in a terminal, a table in a notebook."""

    rows: Sequence["ClassRow | TargetRow"]

    @abstractmethod
    def table(self) -> Table:
        """All rows, with the means below them where there are any."""

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


class ClassRow(NamedTuple):
    """support: how many examples the class has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ClassReport(Report):
    """A row for each class; `macro` is their mean, `weighted` their mean by support.

    A class that is never predicted has precision 0, one without examples recall 0. scores: of each
    class. share_right: of the examples, in [0, 1]. share_name: what that share is called.
    """

    rows: Sequence[ClassRow]

    def __init__(
        self, scores: ClassScores, classes: Sequence[str], share_name: str, share_right: float
    ) -> None:
        columns = [values.tolist() for values in scores]
        self.rows = [ClassRow(*row) for row in zip(classes, *columns, strict=True)]
        self.accuracy = share_right
        self._note = f"{share_name} {share_right:.4f}"
        self.macro = _mean_row("macro mean", scores, np.ones(len(classes)))
        self.weighted = _mean_row("weighted mean", scores, scores.support)

    def table(self) -> Table:
        cells = []
        for row in (*self.rows, self.macro, self.weighted):
            shares = [f"{value:.3f}" for value in (row.precision, row.recall, row.f1)]
            cells.append([row.name, *shares, f"{row.support:,}"])
        header = ["class", "precision", "recall", "F1", "support"]
        return Table.of(header, cells, caption=self._note)

    def __repr__(self) -> str:
        return f"{self.table().text()}\n {self._note}"

    def section(self) -> Section:
        """For a run's report."""
        return Section("Each class", [self.table()], note="Of the validation images.")


def _mean_row(name: str, scores: ClassScores, weights: np.ndarray) -> ClassRow:
    total_weight = max(weights.sum(), 1)

    def mean(values: np.ndarray) -> float:
        return float((values * weights).sum() / total_weight)

    support = int(scores.support.sum())
    return ClassRow(name, mean(scores.precision), mean(scores.recall), mean(scores.f1), support)


class TargetRow(NamedTuple):
    """mae: mean absolute error. rmse: root of the mean squared error. r2: explained share of the
    variance, see `analysis.r2_scores`."""

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
        cells = [[row.name, *map(number, (row.mae, row.rmse, row.r2))] for row in self.rows]
        return Table.of(["target", "MAE", "RMSE", "R2"], cells)
