"""The confusion matrix as a figure: right predictions in blue, mistakes in orange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERS, MOST_LABELS = 25, 120
_RIGHT, _WRONG = "#1f66a8", "#b8480c"
_STRONG = 0.5
"""The emphasis from which on a cell is nearly opaque, with a white number."""


class Confusion(NamedTuple):
    """How many examples of the class `target` were predicted as the class `predicted`."""

    target: str
    predicted: str
    count: int  # type: ignore[assignment]  # in place of tuple's method


def shares_of_rows(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum; a class without examples stays 0."""
    sums = matrix.sum(axis=1, keepdims=True)
    shares: np.ndarray = matrix / np.maximum(sums, 1)
    return shares


def plot_confusion_matrix(
    matrix: np.ndarray, classes: Sequence[str], *, normalize: bool = False
) -> Figure:
    """Plots a cell for each true class (row) and predicted class (column).

    The colour of a cell is its share of the row. Beyond 25 classes the cells have no numbers, and
    beyond 120 some classes have no label.

    matrix: counts [C, C]. normalize: writes percentages of the row into the cells, not counts.
    """
    count = len(classes)
    has_numbers = count <= MOST_NUMBERS
    names = [shared.shorten(name, 24) for name in classes]
    side = _side_length(count)
    label_size = 9.5  # points
    if not has_numbers:
        label_size = max(3.5, min(8.0, 60 * side / count))
    # labels stand beside the axes and, inclined, below them
    margin = 0.6 + 0.008 * label_size * max(map(len, names))
    shares = shares_of_rows(matrix)
    with shared.house_style():
        figure = shared.new_figure(max(side + margin + 0.2, 4.2), side + margin + 0.5)
        axes = figure.subplots()
        axes.imshow(_cell_colours(shares, has_numbers), interpolation="nearest")
        _write_labels(axes, names, label_size)
        if has_numbers:
            number_size = min(9.5, 13 * side / count)
            _write_numbers(axes, matrix, shares, normalize, number_size)
        for edge in axes.spines.values():
            edge.set_color(shared.PALE)
        axes.set_ylabel("is")
        axes.set_xlabel("predicted as")
        right = int(np.diag(matrix).sum())
        title = f"{right:,} of {int(matrix.sum()):,} right; colour: share of the row"
        figure.suptitle(title, fontsize=10)
    return figure


def _side_length(classes: int) -> float:
    """Length of the matrix's side in inches."""
    cell = max(0.11, 10 / classes)
    if classes <= MOST_NUMBERS:
        cell = min(1.3, max(0.5, 5.0 / classes))  # large enough for numbers
    return min(cell * classes, 13.0)


def _emphasis(shares: np.ndarray) -> np.ndarray:
    """How strong each cell looks, [C, C] in [0, 1]."""
    is_diagonal = np.eye(len(shares), dtype=bool)
    # shares of mistakes are small, and need a steeper scale to be seen
    emphasis: np.ndarray = np.where(is_diagonal, shares, shares**0.6)
    return emphasis


def _cell_colours(shares: np.ndarray, has_numbers: bool) -> np.ndarray:
    """Colours [C, C, 4] as RGBA: blue on the diagonal, orange elsewhere, nothing for 0.

    A cell with a number is faint or nearly opaque, nothing between: there neither the colour of
    texts nor white would be readable on both a light and a dark page.
    """
    from matplotlib.colors import to_rgba

    emphasis = _emphasis(shares)
    opacity = 0.2 + 0.8 * emphasis
    if has_numbers:
        faint = 0.08 + 0.16 * emphasis
        strong = 0.7 + 0.3 * emphasis
        opacity = np.where(emphasis < _STRONG, faint, strong)
    is_diagonal = np.eye(len(shares), dtype=bool)
    colours = np.where(is_diagonal[:, :, None], to_rgba(_RIGHT), to_rgba(_WRONG))
    colours[:, :, 3] = np.where(shares > 0, opacity, 0)
    return colours


def _write_labels(axes: Axes, names: Sequence[str], size: float) -> None:
    """Writes the names of all classes, or of every n-th where they are too many."""
    step = math.ceil(len(names) / MOST_LABELS)
    ticks = list(range(0, len(names), step))
    shown = [names[i] for i in ticks]
    direction: dict[str, Any]
    if len(names) <= MOST_NUMBERS:
        direction = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    else:
        direction = {"rotation": 90, "ha": "center", "rotation_mode": "default"}
    axes.set_yticks(ticks, shown, fontsize=size)
    axes.set_xticks(ticks, shown, fontsize=size, va="top", **direction)
    axes.tick_params(length=0, labelcolor=shared.INK)


def _write_numbers(
    axes: Axes, matrix: np.ndarray, shares: np.ndarray, normalize: bool, size: float
) -> None:
    """Writes counts, or percentages, into the cells that are not 0."""
    emphasis = _emphasis(shares)
    for (row, column), count in np.ndenumerate(matrix):
        if count == 0:
            continue
        text = f"{100 * shares[row, column]:.0f}%" if normalize else f"{count:,}"
        colour = "white" if emphasis[row, column] >= _STRONG else shared.INK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
