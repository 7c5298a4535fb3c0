"""The learning-rate range test: loss over rate, with what the rules suggest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABEL = 0.115  # of the width of the axes, with the space beside it


def plot_range_test(
    lrs: Sequence[float],
    losses: Sequence[float],
    judged: slice,
    suggestions: Mapping[str, float],
    *,
    groups: str = "",
) -> Figure:
    """Loss over learning rate; pale where no rule looks.

    lrs, losses: [steps]. judged: the part of them that the rules look at. groups: whose rate it is.
    """
    x, y = np.asarray(lrs), np.asarray(losses)
    colours = shared.group_colours(len(suggestions))
    with shared.house_style():
        figure, (axes,) = shared.new_axes(3.6, width=8)
        axes.plot(x, y, color=shared.PALE, alpha=0.5, linewidth=1.5)
        axes.plot(x[judged], y[judged], color=shared.INK, linewidth=2)
        axes.set_xscale("log")
        first, last = min(x[0], *suggestions.values()), x[-1]  # a tenth of a rate may lie before
        axes.set_xlim(first, last)
        low, high = float(y.min()), float(y[:-1].max())  # the last loss may be anywhere
        margin = 0.06 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        for colour, place, (name, lr) in zip(
            colours, _places(list(suggestions.values()), first, last), suggestions.items(),
            strict=True,
        ):  # fmt: skip
            loss = float(np.interp(np.log(lr), np.log(x), y))
            axes.plot([lr], [loss], "o", color=colour, markersize=7, clip_on=False, zorder=3)
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 0}
            axes.annotate(
                f"{name}\n{lr:.2g}", (lr, loss), (place, 1.03), textcoords="axes fraction",
                color=colour, ha="center", va="bottom", fontsize=9.5, arrowprops=line,
            )  # fmt: skip
        axes.set_xlabel(f"learning rate{f' of {groups}' if groups else ''}")
        axes.set_ylabel("loss, smoothed")
    return figure


def _places(lrs: Sequence[float], first: float, last: float) -> list[float]:
    """Where labels stand, as fractions of the axes: above their rates, or beside each other.

    >>> [round(place, 2) for place in _places([1e-2, 1e-2, 1e-6], 1e-7, 10.0)]
    [0.57, 0.68, 0.12]
    """
    wanted = [float(np.log(lr / first) / np.log(last / first)) for lr in lrs]
    order = np.argsort(wanted, kind="stable").tolist()
    placed = list(wanted)
    for _ in range(100):  # each pair that is too close moves apart, half of the way each
        for left, right in pairwise(order):
            missing = _LABEL - (placed[right] - placed[left])
            if missing > 1e-4:
                placed[left] -= missing / 2
                placed[right] += missing / 2
        placed = [min(max(place, 0.03), 0.97) for place in placed]
    return placed
