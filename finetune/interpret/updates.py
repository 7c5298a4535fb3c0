"""How large gradients and updates were, per layer group, over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_updates(
    spans: Sequence[Span],
    groups: Sequence[str],
    gradients: Sequence[Sequence[float]],
    ratios: Sequence[Sequence[float]],
) -> Figure:
    """Norm of the gradient and update-to-weight ratio, both logarithmic.

    gradients, ratios: [rows][groups]; what is frozen (NaN), 0 or infinite is a gap.
    """
    colours = shared.group_colours(len(groups))
    with shared.house_style():
        figure, axes = shared.new_axes(2.2, 2.2)
        labels = ("norm of the gradient", "update / weight")
        for own, rows, label in zip(axes, (gradients, ratios), labels, strict=True):
            values = np.array(rows, dtype=float)
            values[~(np.isfinite(values) & (values > 0))] = np.nan
            for span in spans:
                inside = values[span.first : span.last]
                # a single row would be a line without length
                style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(inside) < 15 else {}
                for i, colour in enumerate(colours):
                    own.plot(span.epochs, inside[:, i], color=colour, linewidth=1.4, **style)
            own.set_yscale("log")
            own.set_ylabel(label)
        shared.over_epochs(axes, spans)
        shared.group_legend(figure, groups)
    return figure
