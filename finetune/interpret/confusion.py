"""The confusion matrix as a figure: right ones in blue, mistakes in orange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS, MOST_LABELS = 25, 120


class Confusion(NamedTuple):
    """How many examples of the class `target` were predicted as another one."""

    target: str
    predicted: str
    count: int  # type: ignore[assignment]  # in place of tuple's method


def shares_of_rows(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; a class without examples stays 0."""
    found: np.ndarray = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return found


def _colours(shares: np.ndarray) -> np.ndarray:
    """RGBA [C, C, 4]; mistakes are rarer, so that their scale is steeper."""
    from matplotlib import colormaps

    right = colormaps["Blues"](0.9 * shares)
    wrong = colormaps["Oranges"](0.08 * (shares > 0) + 0.82 * shares**0.6)
    wrong[shares == 0] = (1, 1, 1, 1)
    return np.where(np.eye(len(shares), dtype=bool)[:, :, None], right, wrong)


def plot_confusion_matrix(
    matrix: np.ndarray, classes: Sequence[str], *, normalize: bool = False
) -> Figure:
    """Rows are what the examples are, columns what was predicted; colours are shares of the row.

    matrix: counts [C, C]. normalize: percent of the row in the cells instead of counts. Beyond 25
    classes the cells have no numbers, beyond 120 not every class has its label.
    """
    count, shares = len(classes), shares_of_rows(matrix)
    names = [name if len(name) <= 24 else name[:21] + "..." for name in classes]
    cell = min(1.3, max(0.5, 5.0 / count)) if count <= MOST_NUMBERS else max(0.11, 10 / count)
    side = min(cell * count, 13.0)
    letter = 9.5 if count <= MOST_NUMBERS else max(3.5, min(8.0, 60 * side / count))
    # labels stand beside and, inclined, below the axes
    margin = 0.6 + 0.008 * letter * max(map(len, names))
    with shared.house_style():
        figure = shared.new_figure(max(side + margin + 0.2, 4.2), side + margin + 0.5)
        axes = figure.subplots()
        axes.imshow(_colours(shares), interpolation="nearest")
        every = -(-count // MOST_LABELS)
        ticks = list(range(0, count, every))
        turned = 90 if count > MOST_NUMBERS else 45
        axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=letter)
        axes.set_xticks(
            ticks, [names[i] for i in ticks], fontsize=letter, rotation=turned, va="top",
            ha="center" if turned == 90 else "right",
            rotation_mode="default" if turned == 90 else "anchor",
        )  # fmt: skip
        axes.tick_params(length=0, labelcolor=shared.INK)
        if count <= MOST_NUMBERS:
            _write(axes, matrix, shares, normalize, min(9.5, 13 * side / count))
        for edge in axes.spines.values():
            edge.set_color(shared.PALE)
        axes.set_ylabel("is", color=shared.INK)
        axes.set_xlabel("predicted as", color=shared.INK)
        right = int(np.diag(matrix).sum())
        title = f"{right:,} of {int(matrix.sum()):,} right; colour: share of the row"
        figure.suptitle(title, fontsize=10, color=shared.INK)
    return figure


def _write(
    axes: Axes, matrix: np.ndarray, shares: np.ndarray, normalize: bool, size: float
) -> None:
    """Counts, or percent, where there are any."""
    for (row, column), value in np.ndenumerate(matrix):
        if not value:
            continue
        share = shares[row, column]
        text = f"{100 * share:.0f}%" if normalize else f"{value:,}"
        dark = share > (0.6 if row == column else 0.45)
        axes.text(
            column, row, text, ha="center", va="center", fontsize=size,
            color="white" if dark else shared.INK,
        )  # fmt: skip
