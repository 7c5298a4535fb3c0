"""Learning rate and momentum of every layer group over all steps, planned or already run."""

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
    """Plots learning rates on a logarithmic axis, and the momenta below them.

    The line of a group is dotted while the group is frozen.

    groups: names, first layers first. rates: [steps][groups]; a rate of 0 is a gap. momenta: of the
    same shape, or empty.
    """
    positive_rates = np.array(rates, dtype=float)
    positive_rates[positive_rates <= 0] = np.nan  # a logarithmic axis has no 0
    heights = (3.2, 1.5) if len(momenta) else (3.6,)
    note = ""
    if any(span.frozen for span in spans):
        note = "dotted while frozen"
    with shared.house_style():
        figure, axes = shared.new_axes(*heights)
        _plot_groups(axes[0], spans, positive_rates)
        shared.use_log_scale(axes[0])
        axes[0].set_ylabel("learning rate")
        if len(momenta):
            _plot_groups(axes[1], spans, np.array(momenta, dtype=float))
            axes[1].set_ylabel("momentum")
        shared.mark_epochs(axes, spans)
        shared.add_group_legend(figure, groups, note)
    return figure


def _plot_groups(axes: Axes, spans: Sequence[Span], values: np.ndarray) -> None:
    """Plots a line for each group and span; values: [steps, groups].

    One dark line stands for all groups where they never differ. Within a span, groups with equal
    values lie on each other, and take turns along the line so that all of their colours are seen.
    """
    groups = values.shape[1]
    first_group = values[:, :1]
    never_differ = np.array_equal(values, first_group.repeat(groups, axis=1), equal_nan=True)
    colours = shared.group_colours(groups)
    for span in spans:
        span_values = values[span.first : span.last]
        if never_differ and groups > 1:
            axes.plot(span.epochs, span_values[:, 0], color=shared.INK, linewidth=2)
            continue
        for members in _groups_on_one_line(span_values, span.frozen):
            for place, group in enumerate(members):
                style = _line_style(group < span.frozen, place, len(members))
                axes.plot(span.epochs, span_values[:, group], color=colours[group], **style)


def _groups_on_one_line(values: np.ndarray, frozen: int) -> list[list[int]]:
    """Numbers of the groups that lie on each other, all frozen or none.

    values: [steps, groups]. frozen: how many groups are frozen, counted from the first.
    """
    members: dict[tuple[bool, bytes], list[int]] = {}
    for group in range(values.shape[1]):
        # compared as bytes, in which NaN equals NaN
        key = (group < frozen, values[:, group].tobytes())
        members.setdefault(key, []).append(group)
    return list(members.values())


def _line_style(is_frozen: bool, place: int, count: int) -> dict[str, Any]:
    """Style of the line at a place among `count` that lie on each other.

    Each line draws one piece of the common dash pattern, shifted by its place.
    """
    if is_frozen:
        width, drawn, period = 1.5, 1.0, 3.5
    elif count == 1:
        return {"linewidth": 2}
    else:
        width, drawn, period = 2.0, 6.0, 6.0
    offset = -place * period
    gap = count * period - drawn
    return {"linewidth": width, "linestyle": (offset, (drawn, gap))}
