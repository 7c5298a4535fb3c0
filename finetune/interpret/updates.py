"""Size of the gradients and updates of each layer group over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_FEW_ROWS = 15  # a line through fewer is hard to see, and through one it has no length


def plot_updates(
    spans: Sequence[Span],
    groups: Sequence[str],
    gradients: Sequence[Sequence[float]],
    ratios: Sequence[Sequence[float]],
) -> Figure:
    """Plots the norm of the gradient and the update-to-weight ratio, both logarithmic.

    gradients, ratios: [rows][groups]. NaN (a frozen group), 0 and infinity are gaps in the lines.
    """
    with shared.house_style():
        figure, axes = shared.new_axes(2.2, 2.2)
        _plot_positive(axes[0], spans, gradients)
        axes[0].set_ylabel("norm of the gradient")
        _plot_positive(axes[1], spans, ratios)
        axes[1].set_ylabel("update / weight")
        shared.mark_epochs(axes, spans)
        shared.add_group_legend(figure, groups)
    return figure


def _plot_positive(axes: Axes, spans: Sequence[Span], rows: Sequence[Sequence[float]]) -> None:
    values = np.array(rows, dtype=float)
    is_positive = np.isfinite(values) & (values > 0)
    values[~is_positive] = np.nan
    colours = shared.group_colours(values.shape[1])
    for span in spans:
        span_values = values[span.first : span.last]
        style: dict[str, Any] = {"linewidth": 1.4}
        if len(span_values) < _FEW_ROWS:
            style |= {"marker": "o", "markersize": 3}
        for colour, group_values in zip(colours, span_values.T, strict=True):
            axes.plot(span.epochs, group_values, color=colour, **style)
    shared.use_log_scale(axes)
