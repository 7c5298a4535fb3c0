"""Which layers moved: the distance of each module's parameters from where they began."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 60


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the parameters of a module went: its own ones, not those of modules inside of it.

    module: path. group: its layer group. moved: |w - w0|. start: |w0|. count: of parameters.
    """

    module: str
    group: str
    moved: float
    start: float
    count: int

    @property
    def distance(self) -> float:
        """|w - w0| / |w0|; where all began at 0 as if they had begun at 1, |w - w0| / sqrt(count).

        >>> Moved("norm", "body", 0.5, 0.0, 4).distance
        0.25
        """
        return self.moved / (self.start or math.sqrt(self.count))

    def __repr__(self) -> str:
        return f"Moved({self.module!r}, {self.group!r}, distance={self.distance:.3g})"


def merged(rows: Sequence[Moved], most: int = MOST_BARS) -> list[Moved]:
    """Neighbours of one block, and group, as one row, so that there are at most `most`.

    >>> rows = [Moved(f"blocks.{i}.{j}", "body", 3.0, 4.0, 9) for i in range(2) for j in "ab"]
    >>> merged(rows, 2)
    [Moved('blocks.0', 'body', distance=0.75), Moved('blocks.1', 'body', distance=0.75)]
    """
    found = list(rows)
    deepest = max(row.module.count(".") for row in rows) + 1
    for depth in range(deepest, 0, -1):
        if len(found) <= most:
            break
        key = _prefix(depth)
        found = [_sum(path, list(inside)) for (path, _), inside in groupby(rows, key)]
    return found


def _prefix(depth: int) -> Callable[[Moved], tuple[str, str]]:
    return lambda row: (".".join(row.module.split(".")[:depth]), row.group)


def _sum(path: str, rows: list[Moved]) -> Moved:
    moved = math.hypot(*(row.moved for row in rows))
    start = math.hypot(*(row.start for row in rows))
    return Moved(path, rows[0].group, moved, start, sum(row.count for row in rows))


def plot_movement(rows: Sequence[Moved], groups: Sequence[str]) -> Figure:
    """Relative distance as a bar for each module, along the depth, or for each block of many.

    rows: first layers first. groups: names, in the order of depth.
    """
    bars = merged(rows)
    colours = dict(zip(groups, shared.group_colours(len(groups)), strict=True))
    heights = [bar.distance for bar in bars]
    positive = [height for height in heights if height > 0]
    with shared.house_style():
        label = 0.068 * max(len(bar.module) for bar in bars)  # inches, at 8 points
        width = min(13.0, 3.0 + 0.2 * len(bars))
        figure, (axes,) = shared.new_axes(2.8 + label, width=width)
        axes.bar(range(len(bars)), heights, color=[colours[bar.group] for bar in bars], width=0.8)
        if positive and max(positive) > 30 * min(positive):
            axes.set_yscale("log")
            axes.set_ylim(min(positive) / 2, max(positive) * 1.3)
        still = [i for i, height in enumerate(heights) if not height]
        place = axes.get_xaxis_transform()
        axes.plot(still, [0.015] * len(still), "x", color=shared.PALE, transform=place, ms=5)
        shown = range(0, len(bars), -(-len(bars) // MOST_BARS))
        axes.set_xticks(list(shown), [bars[i].module for i in shown], rotation=90, fontsize=8)
        axes.set_xlim(-0.7, len(bars) - 0.3)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("relative distance  $|w - w_0| \\, / \\, |w_0|$")
        axes.set_xlabel(f"{'module' if bars == rows else 'block'}, first layers first")
        shared.group_legend(figure, groups, "x: has not moved" if still else "")
    return figure
