"""Predicted values over true values of a regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_values(targets: np.ndarray, outputs: np.ndarray, names: Sequence[str]) -> Figure:
    """Plots each example as a point, which lies on the dashed line if it is predicted exactly.

    targets, outputs: [N, K]. names: of the K targets, which have axes of their own.
    """
    point_colour = shared.group_colours(1)[0]
    with shared.house_style():
        figure = shared.new_figure(4.2 * len(names), 4.4)
        row = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name, true, predicted in zip(row, names, targets.T, outputs.T, strict=True):
            lowest = float(min(true.min(), predicted.min()))
            highest = float(max(true.max(), predicted.max()))
            ends = [lowest, highest]
            axes.plot(ends, ends, color=shared.PALE, linewidth=1, linestyle="--", zorder=1)
            axes.scatter(true, predicted, s=14, alpha=0.7, color=point_colour, zorder=2)
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("is")
            axes.set_ylabel("predicted as")
            shared.apply_look(axes)
    return figure
