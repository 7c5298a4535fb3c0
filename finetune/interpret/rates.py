"""Learning rate and momentum of every layer group over all steps, planned or done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_rates(
    spans: Sequence[Span],
    groups: Sequence[str],
    rates: Sequence[Sequence[float]],
    momenta: Sequence[Sequence[float]] = (),
) -> Figure:
    """Learning rates, logarithmic, and below them the momenta; dotted while a group is frozen.

    groups: names, first layers first. rates: [steps][groups]; a rate of 0 is a gap. momenta: alike,
    or empty.
    """
    values = np.array(rates, dtype=float)
    with shared.house_style():
        figure, axes = shared.new_axes(*((3.2, 1.5) if len(momenta) else (3.6,)))
        values[values <= 0] = np.nan  # a logarithm has no place for it
        _lines(axes[0], spans, values)
        axes[0].set_yscale("log")
        axes[0].set_ylabel("learning rate")
        if len(axes) > 1:
            _lines(axes[1], spans, np.array(momenta, dtype=float))
            axes[1].set_ylabel("momentum")
        shared.over_epochs(axes, spans)
        note = "dotted while frozen" if any(span.frozen for span in spans) else ""
        shared.group_legend(figure, groups, note)
    return figure


def _lines(axes: Axes, spans: Sequence[Span], values: np.ndarray) -> None:
    """A line for each group and span; pieces of all colours by turns where groups are alike."""
    count = values.shape[1]
    everywhere = np.array_equal(values, values[:, :1].repeat(count, 1), equal_nan=True)
    colours = shared.group_colours(count)
    for span in spans:
        inside = values[span.first : span.last]
        if everywhere and count > 1:
            axes.plot(span.epochs, inside[:, 0], color=shared.INK, linewidth=2)
            continue
        alike: dict[tuple[bool, bytes], list[int]] = {}
        for i in range(count):
            alike.setdefault((i < span.frozen, inside[:, i].tobytes()), []).append(i)
        for (frozen, _), members in alike.items():
            for place, i in enumerate(members):
                style = _style(frozen, place, len(members))
                axes.plot(span.epochs, inside[:, i], color=colours[i], **style)


def _style(frozen: bool, place: int, count: int) -> dict[str, Any]:
    """Of the line at a place among `count` that lie on each other."""
    if count == 1 and not frozen:
        return {"linewidth": 2}
    drawn, period = (1.0, 3.5) if frozen else (6.0, 6.0)
    dashes = (-place * period, (drawn, count * period - drawn))
    return {"linewidth": 1.5 if frozen else 2, "linestyle": dashes}
