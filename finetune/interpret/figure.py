"""The look that all figures share: dark ink on white, so that dark notebooks show it, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE = "#222222", "#8a8a8a"
_TEN = (
    "#1f77b4", "#d95f02", "#2ca02c", "#c2185b", "#7b5cc4",
    "#8c564b", "#17a2b8", "#8a8d0f", "#e0a100", "#555555",
)  # fmt: skip
_LETTER = 0.078  # inches, of a letter at 9 points
_WIDTH = 9.0  # inches, of a figure over epochs
_SIGN = 0.55  # inches, of a legend's column without its text


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's own defaults, whatever style the notebook has; the style is back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # a class may be called "$5 to $10"
        yield


@cache
def _notebook_figure() -> type[Figure]:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """Shows itself in a notebook in which nobody has imported pyplot, too."""

        def _repr_png_(self) -> bytes:
            import io

            stream = io.BytesIO()
            self.savefig(stream, format="png", facecolor=self.get_facecolor(), dpi=100)
            return stream.getvalue()

    return NotebookFigure


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no global state and needs no display. Sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _notebook_figure()(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(*heights: float, width: float = _WIDTH) -> tuple[Figure, list[Axes]]:
    """Axes of these heights in inches, one below the other, in the shared look."""
    figure = new_figure(width, sum(heights) + 0.8)
    grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    found: list[Axes] = list(grid.flat)
    for axes in found:
        # said here, because ticks that are made later would ask the notebook's style
        axes.tick_params(which="both", color=PALE, labelcolor=INK)
        axes.tick_params(which="minor", length=2)
        axes.grid(color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_color(PALE)
            spine.set_visible(name in ("left", "bottom"))
    return figure, found


def over_epochs(axes: Sequence[Axes], spans: Sequence[Span]) -> None:
    """Whole epochs as ticks, phases as bands, their names above the first of the axes."""
    from matplotlib.ticker import MaxNLocator

    for own in axes:
        for i, span in enumerate(spans):
            if i % 2:
                own.axvspan(span.start, span.end, color="#f3f3f3", linewidth=0, zorder=0)
        for span in spans[1:]:
            own.axvline(span.start, color=PALE, linewidth=0.8, zorder=0.5)
        own.set_xlim(0, spans[-1].end)
        own.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    axes[-1].set_xlabel("epoch")
    _name_spans(axes[0], spans)


def _name_spans(axes: Axes, spans: Sequence[Span]) -> None:
    """Beside each other where they have the room, else inclined, and not all where even that is
    too narrow."""
    inch = (_WIDTH - 1) / spans[-1].end
    # the last name may stand out over the end of its span, as the figure goes on for a little
    rooms = [(span.end - span.start) * inch + (0.2 if span is spans[-1] else 0) for span in spans]
    fits = all(len(s.name) * _LETTER < room for s, room in zip(spans, rooms, strict=True))
    free = -1.0
    for span in spans:
        if not fits and span.start * inch < free:
            continue
        free = span.start * inch + 0.2
        axes.annotate(
            span.name, (span.start, 1), (3, 4), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", fontsize=9, color=INK, annotation_clip=False,
            rotation=0 if fits else 35, rotation_mode="anchor",
        )  # fmt: skip


def group_colours(count: int) -> list[Any]:
    """One per layer group: ten that differ, or a scale along the depth for more."""
    if count <= len(_TEN):
        return list(_TEN[:count])
    from matplotlib import colormaps

    return [colormaps["viridis"](0.92 * i / (count - 1)) for i in range(count)]


def group_legend(figure: Figure, groups: Sequence[str], note: str = "") -> None:
    """Below the figure: all groups, or the first, the middle and the last of many."""
    from matplotlib.lines import Line2D

    colours, count = group_colours(len(groups)), len(groups)
    shown = range(count) if count <= len(_TEN) else (0, count // 2, count - 1)
    names = [groups[i] if count <= len(_TEN) else f"{groups[i]} ({i + 1})" for i in shown]
    title = "layer group" if count <= len(_TEN) else f"layer group (of {count}, along the depth)"
    wide = max(map(len, names)) * _LETTER * 1.1 + _SIGN
    figure.legend(
        [Line2D([], [], color=colours[i], linewidth=3) for i in shown],
        names,
        loc="outside lower center",
        title=f"{title}; {note}" if note else title,
        ncols=max(1, min(len(names), int(figure.get_figwidth() / wide))),
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        title_fontsize=9.5,
    )


def line_legend(axes: Axes) -> None:
    """Beside the axes, where it covers nothing."""
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=INK, fontsize=9.5
    )
