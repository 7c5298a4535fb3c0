"""Which layers moved: the distance of each module's parameters from where they began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 60


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the parameters of one module moved, without those of the modules inside of it.

    module: path. group: its layer group. moved: the norm |w - w0|. start: the norm |w0|.
    count: number of parameters.
    """

    module: str
    group: str
    moved: float
    start: float
    count: int

    @property
    def distance(self) -> float:
        """The relative distance |w - w0| / |w0|.

        Parameters that all began at 0 count as if they had begun at 1: |w - w0| / sqrt(count).

        >>> Moved("norm", "body", 0.5, 0.0, 4).distance
        0.25
        """
        return self.moved / (self.start or math.sqrt(self.count))

    def __repr__(self) -> str:
        return f"Moved({self.module!r}, {self.group!r}, distance={self.distance:.3g})"


def merge_neighbours(rows: Sequence[Moved], most: int = MOST_BARS) -> list[Moved]:
    """Merges neighbouring modules of one block and layer group until at most `most` rows remain.

    The deepest modules are merged first. A block in two layer groups stays two rows, and more than
    `most` rows remain if even the top-level modules are more than that.

    >>> rows = [Moved(f"blocks.{i}.{j}", "body", 3.0, 4.0, 9) for i in range(2) for j in "ab"]
    >>> merge_neighbours(rows, 2)
    [Moved('blocks.0', 'body', distance=0.75), Moved('blocks.1', 'body', distance=0.75)]
    """
    merged = list(rows)
    depth = max((row.module.count(".") for row in rows), default=0) + 1
    while len(merged) > most and depth > 0:
        merged = _merge_at_depth(merged, depth)
        depth -= 1
    return merged


def _merge_at_depth(rows: Sequence[Moved], depth: int) -> list[Moved]:
    """Merges neighbours whose paths agree in their first `depth` names."""

    def block_and_group(row: Moved) -> tuple[str, str]:
        names = row.module.split(".")
        return ".".join(names[:depth]), row.group

    merged = []
    for (block, group), members in groupby(rows, block_and_group):
        merged.append(_merge(block, group, list(members)))
    return merged


def _merge(module: str, group: str, rows: Sequence[Moved]) -> Moved:
    """Merges all rows into one, as if their parameters were a single vector."""
    moved = math.hypot(*(row.moved for row in rows))
    start = math.hypot(*(row.start for row in rows))
    count = sum(row.count for row in rows)
    return Moved(module, group, moved, start, count)


def plot_movement(rows: Sequence[Moved], groups: Sequence[str]) -> Figure:
    """Plots the relative distance of each module as a bar, or of each block if modules are many.

    rows: first layers first. groups: names of the layer groups, first layers first.
    """
    if not rows:
        raise ValueError("rows is empty: there is nothing to show")
    bars = merge_neighbours(rows)
    names = [bar.module for bar in bars]
    distances = np.array([bar.distance for bar in bars])
    unmoved = np.flatnonzero(distances == 0)
    unit = "module" if len(bars) == len(rows) else "block"
    note = "x: has not moved" if len(unmoved) else ""
    label_height = 0.068 * max(map(len, names))  # inches, at 8 points
    width = min(13.0, 3.0 + 0.2 * len(bars))
    with shared.house_style():
        figure, (axes,) = shared.new_axes(2.8 + label_height, width=width)
        axes.bar(range(len(bars)), distances, color=_bar_colours(bars, groups), width=0.8)
        _scale_to(axes, distances)
        _mark_unmoved(axes, unmoved)
        _write_names(axes, names)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("relative distance  |w - w0| / |w0|")
        axes.set_xlabel(f"{unit}, first layers first")
        shared.add_group_legend(figure, groups, note)
    return figure


def _bar_colours(bars: Sequence[Moved], groups: Sequence[str]) -> list[Any]:
    colour_of = dict(zip(groups, shared.group_colours(len(groups)), strict=True))
    return [colour_of[bar.group] for bar in bars]


def _scale_to(axes: Axes, distances: np.ndarray) -> None:
    """Makes the axis logarithmic if the smallest bars could not be seen beside the largest."""
    positive = distances[distances > 0]
    if len(positive) and positive.max() > 30 * positive.min():
        shared.use_log_scale(axes)
        axes.set_ylim(positive.min() / 2, positive.max() * 1.3)


def _mark_unmoved(axes: Axes, places: np.ndarray) -> None:
    """Draws a small x where a bar of height 0 cannot be seen."""
    # heights are fractions of the axes: a logarithmic axis has no 0 to stand on
    transform = axes.get_xaxis_transform()
    heights = np.full(len(places), 0.015)
    axes.plot(places, heights, "x", color=shared.PALE, transform=transform, markersize=5)


def _write_names(axes: Axes, names: Sequence[str]) -> None:
    """Writes the names of all bars below them, or of every n-th if they are too many."""
    step = math.ceil(len(names) / MOST_BARS)
    ticks = list(range(0, len(names), step))
    axes.set_xticks(ticks, names[::step], rotation=90, fontsize=8)
    axes.set_xlim(-0.7, len(names) - 0.3)
