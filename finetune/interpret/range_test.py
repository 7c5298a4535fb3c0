"""The figure of a learning-rate range test: loss over learning rate, with the suggestions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_WIDTH = 0.115  # of the width of the axes, with the space beside it


def plot_range_test(
    lrs: Sequence[float],
    losses: Sequence[float],
    judged: slice,
    suggestions: Mapping[str, float],
    *,
    groups: str = "",
) -> Figure:
    """Plots loss over learning rate, and marks the suggested rates on the curve.

    lrs, losses: [steps]. judged: the steps that the rules look at; the others are pale.
    suggestions: learning rates by the names of their rules. groups: whose rate it is, or empty.
    """
    x, y = np.asarray(lrs), np.asarray(losses)
    first = min(x[0], *suggestions.values())  # a tenth of a rate may lie before the first one
    last = x[-1]
    label_places = _place_labels(list(suggestions.values()), first, last)
    colours = shared.group_colours(len(suggestions))
    with shared.house_style():
        figure, (axes,) = shared.new_axes(3.6, width=8)
        axes.plot(x, y, color=shared.PALE, alpha=0.5, linewidth=1.5)
        axes.plot(x[judged], y[judged], color=shared.INK, linewidth=2)
        shared.use_log_scale(axes, "x")
        axes.set_xlim(first, last)
        axes.set_ylim(*_loss_limits(y))
        for (name, lr), place, colour in zip(
            suggestions.items(), label_places, colours, strict=True
        ):
            loss = float(np.interp(np.log(lr), np.log(x), y))
            _mark_suggestion(axes, f"{name}\n{lr:.2g}", (lr, loss), place, colour)
        axes.set_xlabel(f"learning rate of {groups}" if groups else "learning rate")
        axes.set_ylabel("loss, smoothed")
    return figure


def _loss_limits(losses: np.ndarray) -> tuple[float, float]:
    low = float(losses.min())
    high = float(losses[:-1].max())  # the last loss, which ended the test, may be anywhere
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _mark_suggestion(
    axes: Axes, label: str, point: tuple[float, float], label_place: float, colour: Any
) -> None:
    """Draws a dot on the curve, and a line from it to its label above the axes."""
    lr, loss = point
    axes.plot([lr], [loss], "o", color=colour, markersize=7, clip_on=False, zorder=3)
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 0}
    axes.annotate(
        label, point, (label_place, 1.03), textcoords="axes fraction",
        ha="center", va="bottom", fontsize=9.5, arrowprops=line,
    )  # fmt: skip


def _place_labels(lrs: Sequence[float], first: float, last: float) -> list[float]:
    """Where the middles of labels stand, as fractions of the width of the axes.

    A label stands above its rate, or beside the labels that are there. first, last: ends of the
    logarithmic axis.

    >>> [round(place, 2) for place in _place_labels([1e-2, 1e-2, 1e-6], 1e-7, 10.0)]
    [0.57, 0.68, 0.12]
    """
    places = [float(np.log(lr / first) / np.log(last / first)) for lr in lrs]
    left_to_right = np.argsort(places, kind="stable").tolist()
    for _ in range(100):
        # two labels that overlap move apart, each by half of what is missing between them
        for left, right in pairwise(left_to_right):
            missing = _LABEL_WIDTH - (places[right] - places[left])
            if missing > 1e-4:
                places[left] -= missing / 2
                places[right] += missing / 2
        places = [min(max(place, 0.03), 0.97) for place in places]
    return places
