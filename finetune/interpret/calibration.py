"""Calibration: how often predictions of a given probability are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.analysis import calibration_bins
from finetune.interpret.standard_error import share_text
from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADER = ("probability", "examples", "mean probability", "accuracy")
_MOST_NUMBERS = 20  # of bins, for which counts above the bars are readable
_BAR, _GAP = "#1f77b4", "#d95f02"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Accuracy of predictions by the probability of the predicted class.

    Examples are grouped into bins, equal parts of (0, 1], by that probability.

    counts: [bins], examples. confidences: [bins], mean probability. accuracies: [bins], share that
    is predicted right. The last two are NaN in empty bins.
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
        """Borders of the bins, [bins + 1], from 0 to 1."""
        return np.linspace(0, 1, len(self.counts) + 1)

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - mean probability| by count, in [0, 1].

        Source: Naeini, Cooper, Hauskrecht (2015); Guo et al. (2017).
        """
        return self._mean(np.abs(self.accuracies - self.confidences))

    def _mean(self, values: np.ndarray) -> float:
        """Mean over the examples of a value of each bin; 0 without examples."""
        weighted = self.counts * np.nan_to_num(values)
        return float(weighted.sum() / max(self.counts.sum(), 1))

    @property
    def _summary(self) -> str:
        accuracy = share_text(self._mean(self.accuracies), max(int(self.counts.sum()), 1), 3)
        return (
            f"expected calibration error {self.error:.4f}; "
            f"mean probability {self._mean(self.confidences):.3f}, "
            f"accuracy {accuracy}"
        )

    def table(self) -> Table:
        """A row for each bin that is not empty."""
        edges = self.edges
        cells = []
        for i in np.flatnonzero(self.counts).tolist():
            cells.append(
                [
                    f"{edges[i]:.2f} .. {edges[i + 1]:.2f}",
                    f"{self.counts[i]:,}",
                    f"{self.confidences[i]:.3f}",
                    f"{self.accuracies[i]:.3f}",
                ]
            )
        return Table.of(_HEADER, cells, caption=self._summary)

    def __repr__(self) -> str:
        return f"{self.table().text()}\n {self._summary}"

    def _repr_html_(self) -> str:
        return self.table().html()

    def plot(self) -> Figure:
        """Plots a reliability diagram, with the number of examples of each bin below it.

        The dashed diagonal is perfect calibration.
        """
        with shared.house_style():
            figure, (top, bottom) = shared.new_axes(3.8, 1.2, width=5.6)
            self._plot_accuracies(top)
            # on two lines: on one it would be wider than the figure
            top.set_title(self._summary.replace("; ", "\n", 1), fontsize=9.5, loc="left")
            self._plot_counts(bottom)
            bottom.set_xlabel("probability of the predicted class")
            bottom.set_xlim(0, 1)
            figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return figure

    @property
    def _middles(self) -> np.ndarray:
        middles: np.ndarray = (self.edges[:-1] + self.edges[1:]) / 2
        return middles

    @property
    def _bar_width(self) -> float:
        return float(self.edges[1]) * 0.92

    def _plot_accuracies(self, axes: Axes) -> None:
        """Draws the accuracy of each bin as a bar, and the gap to its probability as a line."""
        has_examples = self.counts > 0
        middles = self._middles[has_examples]
        accuracies = self.accuracies[has_examples]
        confidences = self.confidences[has_examples]
        axes.bar(middles, accuracies, self._bar_width, color=_BAR, alpha=0.75, label="accuracy")
        axes.vlines(
            confidences, np.minimum(accuracies, confidences), np.maximum(accuracies, confidences),
            color=_GAP, linewidth=3, label="gap to the mean probability",
        )  # fmt: skip
        axes.plot([0, 1], [0, 1], "--", color=shared.INK, linewidth=1, label="perfect")
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("accuracy")

    def _plot_counts(self, axes: Axes) -> None:
        axes.bar(self._middles, self.counts, self._bar_width, color=shared.PALE)
        if len(self.counts) <= _MOST_NUMBERS:
            self._write_counts(axes)
        axes.margins(y=0.2)  # room for the numbers
        axes.set_ylabel("examples")

    def _write_counts(self, axes: Axes) -> None:
        for middle, count in zip(self._middles, self.counts.tolist(), strict=True):
            if count == 0:
                continue
            axes.annotate(
                f"{count:,}", (middle, count), (0, 2), textcoords="offset points",
                ha="center", fontsize=7.5,
            )  # fmt: skip
