"""The look that all figures share: mid-tones without a background, for light and dark pages.

Nobody can know the colour of the page: a notebook does not tell its kernel, and readers change it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from finetune.interpret.fonts import give_fonts
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#797979"
"""The colour of texts, as far from white as from the #111111 of dark notebooks: 4.3 to 1."""
PALE = "#8a8a8aa0"
"""The colour of ticks, spines and what else stays behind the data; the page shines through."""
# each at least 3 to 1 on both
_TEN = (
    "#1f77b4", "#d95f02", "#2ca02c", "#c2185b", "#7b5cc4",
    "#8c564b", "#17a2b8", "#8a8d0f", "#b98500", "#73808c",
)  # fmt: skip
_ALONG_THE_DEPTH = ("#7b5cc4", "#2a7fbd", "#14919b", "#3f9142", "#b07d00", "#d9480f", "#d0386f")
_FONTS = ("font.family", "font.sans-serif", "font.serif", "font.monospace")
_LETTER_WIDTH = 0.078  # inches, at 9 points
_WIDTH = 9.0  # inches, of a figure over epochs
_LEGEND_SYMBOL_WIDTH = 0.55  # inches, of a legend's column without its text


@contextmanager
def house_style() -> Iterator[None]:
    """Draws with matplotlib's defaults, and restores the notebook's style afterwards.

    The fonts are the notebook's: who has chosen one may need it for the names of classes.
    """
    import matplotlib

    with matplotlib.rc_context():
        style: MutableMapping[Any, Any] = matplotlib.rcParams
        fonts = {name: style[name] for name in _FONTS}
        matplotlib.rcdefaults()
        style.update(fonts)
        style.update({"text.color": INK, "axes.labelcolor": INK, "axes.facecolor": "none"})
        style["text.parse_math"] = False  # a class may be called "$5 to $10"
        yield


@cache
def _notebook_figure() -> type[Figure]:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that a notebook can show without pyplot being imported, in any script."""

        def draw(self, renderer: Any) -> None:
            give_fonts(self)  # now, as the labels of ticks are made late
            super().draw(renderer)

        def _ipython_display_(self) -> None:
            # not as _repr_png_: with pyplot imported, notebooks show figures in a way of their own,
            # and put transparent ones on a white card
            from IPython import display

            publish: Any = display.publish_display_data
            publish({"image/png": as_png(self), "text/plain": repr(self)})

    return NotebookFigure


def as_png(figure: Figure, dpi: float = 100) -> bytes:
    """The figure as the bytes of a PNG file without a background, for a page of any colour."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="none", dpi=dpi)
    return stream.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no global state and needs no display. Sizes in inches.

    Saved to a file it is on white, as what opens the file may be black.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _notebook_figure()(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(*heights: float, width: float = _WIDTH) -> tuple[Figure, list[Axes]]:
    """Axes of these heights in inches, one below the other, in the shared look."""
    figure = new_figure(width, sum(heights) + 0.8)
    grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    column: list[Axes] = list(grid.flat)
    for axes in column:
        apply_look(axes)
    return figure, column


def apply_look(axes: Axes) -> None:
    """Gives axes pale ticks, a pale grid behind the data, and spines at the left and the bottom."""
    # set on the axes, because ticks that are made later would follow the notebook's style
    axes.tick_params(which="both", color=PALE, labelcolor=INK)
    axes.tick_params(which="minor", length=2)
    axes.grid(color=PALE, alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(PALE)
        spine.set_visible(side in ("left", "bottom"))


def use_log_scale(axes: Axes, direction: Literal["x", "y"] = "y") -> None:
    """Makes an axis logarithmic, with plain numbers such as 0.001 and 1e-05 at its ticks.

    matplotlib would write formulas, which the shared look shows as they are: "$" is any sign.
    """
    from matplotlib.ticker import LogFormatter

    class PlainNumbers(LogFormatter):
        def __call__(self, value: float, position: int | None = None) -> str:
            has_room = super().__call__(value, position) != ""
            return f"{value:.3g}" if has_room else ""

    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_formatter(PlainNumbers())
    # between powers of ten only where the axis is short
    axis.set_minor_formatter(PlainNumbers(minor_thresholds=(1, 0.4)))


def shorten(name: str, longest: int) -> str:
    """The name, cut to at most `longest` letters.

    >>> shorten("dog", 8), shorten("a golden retriever", 8)
    ('dog', 'a gol...')
    """
    if len(name) <= longest:
        return name
    return name[: longest - 3] + "..."


def mark_epochs(column: Sequence[Axes], spans: Sequence[Span]) -> None:
    """Draws whole epochs as ticks and phases as bands, with the phases' names at the top.

    column: axes one below the other, which share the axis of epochs.
    """
    from matplotlib.ticker import MaxNLocator

    for axes in column:
        for span in spans[1::2]:  # every other phase has a band
            axes.axvspan(span.start, span.end, color=PALE, alpha=0.1, linewidth=0, zorder=0)
        for span in spans[1:]:
            axes.axvline(span.start, color=PALE, linewidth=0.8, zorder=0.5)
        axes.set_xlim(0, spans[-1].end)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    column[-1].set_xlabel("epoch")
    _name_spans(column[0], spans)


def _name_spans(axes: Axes, spans: Sequence[Span]) -> None:
    """Writes the names above their spans: horizontal if all fit, else inclined.

    Inclined names that would lie on the one before are left out.
    """
    inches_per_epoch = (_WIDTH - 1) / spans[-1].end
    are_horizontal = _names_fit(spans, inches_per_epoch)
    rotation = 0 if are_horizontal else 35
    next_free = -1.0  # inches, from the left
    for span in spans:
        left = span.start * inches_per_epoch
        if not are_horizontal and left < next_free:
            continue
        next_free = left + 0.2
        axes.annotate(
            span.name, (span.start, 1), (3, 4), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", fontsize=9, annotation_clip=False,
            rotation=rotation, rotation_mode="anchor",
        )  # fmt: skip


def _names_fit(spans: Sequence[Span], inches_per_epoch: float) -> bool:
    for span in spans:
        room = (span.end - span.start) * inches_per_epoch
        if span is spans[-1]:
            room += 0.2  # the figure goes on for a little after the last span
        if len(span.name) * _LETTER_WIDTH >= room:
            return False
    return True


def group_colours(count: int) -> list[Any]:
    """One colour for each layer group: ten distinct ones, or a scale along the depth for more."""
    if count <= len(_TEN):
        return list(_TEN[:count])
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("depth", _ALONG_THE_DEPTH)
    return [scale(i / (count - 1)) for i in range(count)]


def add_group_legend(figure: Figure, groups: Sequence[str], note: str = "") -> None:
    """Adds the layer groups below the figure: all, or the first, middle and last of many.

    note: what else the title of the legend says, or empty.
    """
    from matplotlib.lines import Line2D

    count = len(groups)
    if count <= len(_TEN):
        title = "layer group"
        shown = list(range(count))
        names = list(groups)
    else:
        title = f"layer group (of {count}, along the depth)"
        shown = [0, count // 2, count - 1]
        names = [f"{groups[i]} ({i + 1})" for i in shown]
    if note:
        title = f"{title}; {note}"
    longest_name = max(map(len, names))
    column_width = longest_name * _LETTER_WIDTH * 1.1 + _LEGEND_SYMBOL_WIDTH
    columns_that_fit = int(figure.get_figwidth() / column_width)
    colours = group_colours(count)
    figure.legend(
        [Line2D([], [], color=colours[i], linewidth=3) for i in shown],
        names,
        loc="outside lower center",
        title=title,
        ncols=max(1, min(len(names), columns_that_fit)),
        frameon=False,
        fontsize=9.5,
        title_fontsize=9.5,
    )


def add_line_legend(axes: Axes) -> None:
    """Adds a legend of the lines to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9.5)
