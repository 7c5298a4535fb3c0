"""Precision, recall and F1 of each class, as a table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune.interpret.analysis import class_scores
from finetune.interpret.table import as_html, as_text

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

    A class that is never predicted has precision 0, one without examples recall 0.
    """

    def __init__(self, matrix: np.ndarray, classes: Sequence[str]) -> None:
        scores = class_scores(matrix)
        total = int(matrix.sum())
        columns = zip(classes, *(values.tolist() for values in scores), strict=True)
        self.rows = [ClassRow(*row) for row in columns]
        self.accuracy = float(np.diag(matrix).sum() / max(total, 1))
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
        return as_text(_HEADER, self._cells()) + f"\n accuracy {self.accuracy:.4f}"

    def _repr_html_(self) -> str:
        return as_html(_HEADER, self._cells(), caption=f"accuracy {self.accuracy:.4f}")
