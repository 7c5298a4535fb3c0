"""What was predicted over what is true, where both are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_values(targets: np.ndarray, outputs: np.ndarray, names: Sequence[str]) -> Figure:
    """targets, outputs: [N, K]; an example is a point, on the line where it is right."""
    with shared.house_style():
        figure = shared.new_figure(4.2 * len(names), 4.4)
        columns = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name, true, found in zip(columns, names, targets.T, outputs.T, strict=True):
            ends = [float(min(true.min(), found.min())), float(max(true.max(), found.max()))]
            axes.plot(ends, ends, color=shared.PALE, linewidth=1, linestyle="--", zorder=1)
            axes.scatter(true, found, s=14, alpha=0.5, color=shared.group_colours(1)[0], zorder=2)
            axes.set_title(name, fontsize=10, color=shared.INK)
            axes.set_xlabel("is")
            axes.set_ylabel("predicted as")
            axes.grid(color="#e4e4e4", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.tick_params(color=shared.PALE, labelcolor=shared.INK)
            for side, spine in axes.spines.items():
                spine.set_color(shared.PALE)
                spine.set_visible(side in ("left", "bottom"))
    return figure
