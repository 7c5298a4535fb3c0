"""Whether a probability means what it says: bins, expected calibration error, the diagram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.analysis import calibration_bins
from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADER = ("probability", "examples", "mean probability", "accuracy")
_MOST_NUMBERS = 20  # above the bars
_BAR, _GAP = "#1f77b4", "#d95f02"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Examples in equal parts of (0, 1] by the probability of the predicted class.

    counts, confidences (mean probability), accuracies: [bins]; NaN in empty bins.
    """

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray

    @classmethod
    def of(cls, confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> Calibration:
        """confidences: [N] probabilities of the predicted class. correct: [N] bool."""
        return cls(*calibration_bins(confidences, correct, bins))

    @property
    def edges(self) -> np.ndarray:
        return np.linspace(0, 1, len(self.counts) + 1)

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - mean probability| by count, in [0, 1].

        Source: Naeini, Cooper, Hauskrecht (2015); Guo et al. (2017).
        """
        gaps = np.nan_to_num(np.abs(self.accuracies - self.confidences))
        return float((self.counts * gaps).sum() / max(self.counts.sum(), 1))

    def _mean(self, values: np.ndarray) -> float:
        return float((self.counts * np.nan_to_num(values)).sum() / max(self.counts.sum(), 1))

    def _cells(self) -> list[list[str]]:
        edges = self.edges
        return [
            [
                f"{edges[i]:.2f} .. {edges[i + 1]:.2f}",
                f"{count:,}",
                f"{self.confidences[i]:.3f}",
                f"{self.accuracies[i]:.3f}",
            ]
            for i, count in enumerate(self.counts.tolist())
            if count
        ]

    @property
    def _summary(self) -> str:
        return (
            f"expected calibration error {self.error:.4f}; "
            f"mean probability {self._mean(self.confidences):.3f}, "
            f"accuracy {self._mean(self.accuracies):.3f}"
        )

    def table(self) -> Table:
        """A row for each bin that is not empty."""
        return Table.of(_HEADER, self._cells(), caption=self._summary)

    def __repr__(self) -> str:
        return f"{self.table().text()}\n {self._summary}"

    def _repr_html_(self) -> str:
        return self.table().html()

    def plot(self) -> Figure:
        """Reliability diagram: accuracy over probability, the diagonal is perfect; counts below."""
        edges, there = self.edges, self.counts > 0
        width, middles = edges[1], (edges[:-1] + edges[1:]) / 2
        acc, conf = self.accuracies[there], self.confidences[there]
        with shared.house_style():
            figure, (top, bottom) = shared.new_axes(3.8, 1.2, width=5.6)
            top.bar(middles[there], acc, width * 0.92, color=_BAR, alpha=0.75, label="accuracy")
            top.vlines(
                conf, np.minimum(acc, conf), np.maximum(acc, conf),
                color=_GAP, linewidth=3, label="gap to the mean probability",
            )  # fmt: skip
            top.plot([0, 1], [0, 1], "--", color=shared.INK, linewidth=1, label="perfect")
            top.set_ylim(0, 1.02)
            top.set_ylabel("accuracy")
            top.set_title(self._summary, fontsize=9.5, color=shared.INK, loc="left")
            bottom.bar(middles, self.counts, width * 0.92, color=shared.PALE)
            for place, count in zip(middles, self.counts.tolist(), strict=True):
                if count and len(self.counts) <= _MOST_NUMBERS:
                    bottom.annotate(
                        f"{count:,}", (place, count), (0, 2), textcoords="offset points",
                        ha="center", fontsize=7.5, color=shared.INK,
                    )  # fmt: skip
            bottom.margins(y=0.2)
            bottom.set_ylabel("examples")
            bottom.set_xlabel("probability of the predicted class")
            bottom.set_xlim(0, 1)
            figure.legend(
                loc="outside lower center", ncols=3, frameon=False,
                labelcolor=shared.INK, fontsize=9,
            )  # fmt: skip
        return figure
