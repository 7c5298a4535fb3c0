"""How good the predictions are for each class, or each target, as a table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.interpret.analysis import ClassScores
from finetune.interpret.table import as_html, as_text
from finetune.wording import number

_HEADER = ("class", "precision", "recall", "F1", "support")


class ClassRow(NamedTuple):
    """support: how many examples the class has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ClassReport:
    """A row for each class; `macro` is their mean, `weighted` their mean by support.

    A class that is never predicted has precision 0, one without examples recall 0. accuracy: share
    of the examples that are all right, `what` says in the table.
    """

    def __init__(
        self, scores: ClassScores, classes: Sequence[str], what: str, accuracy: float
    ) -> None:
        total = int(scores.support.sum())
        columns = zip(classes, *(values.tolist() for values in scores), strict=True)
        self.rows = [ClassRow(*row) for row in columns]
        self.accuracy, self._note = accuracy, f"{what} {accuracy:.4f}"
        self.macro = self._mean("macro mean", scores[:3], np.ones(len(classes)), total)
        self.weighted = self._mean("weighted mean", scores[:3], scores.support, total)

    @staticmethod
    def _mean(name: str, scores: Sequence[np.ndarray], by: np.ndarray, total: int) -> ClassRow:
        precision, recall, f1 = (float((s * by).sum() / max(by.sum(), 1)) for s in scores)
        return ClassRow(name, precision, recall, f1, total)

    def _cells(self) -> list[list[str]]:
        rows = [*self.rows, self.macro, self.weighted]
        return [[row.name, *(f"{v:.3f}" for v in row[1:4]), f"{row.support:,}"] for row in rows]

    def __repr__(self) -> str:
        return as_text(_HEADER, self._cells()) + f"\n {self._note}"

    def _repr_html_(self) -> str:
        return as_html(_HEADER, self._cells(), caption=self._note)


class TargetRow(NamedTuple):
    """mae: mean absolute error. rmse: root of the mean squared one. r2: explained share of the
    variance, NaN where a target does not vary."""

    name: str
    mae: float
    rmse: float
    r2: float


class TargetReport:
    """A row for each target of a regression."""

    def __init__(self, targets: np.ndarray, outputs: np.ndarray, names: Sequence[str]) -> None:
        true, errors = targets.astype(np.float64), (outputs - targets).astype(np.float64)
        variance = true.var(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(variance > 0, 1 - (errors**2).mean(axis=0) / variance, np.nan)
        columns = (np.abs(errors).mean(axis=0), np.sqrt((errors**2).mean(axis=0)), r2)
        rows = zip(names, *(column.tolist() for column in columns), strict=True)
        self.rows = [TargetRow(*row) for row in rows]

    def _cells(self) -> list[list[str]]:
        return [[row.name, *map(number, row[1:])] for row in self.rows]

    def __repr__(self) -> str:
        return as_text(("target", "MAE", "RMSE", "R2"), self._cells())

    def _repr_html_(self) -> str:
        return as_html(("target", "MAE", "RMSE", "R2"), self._cells())
