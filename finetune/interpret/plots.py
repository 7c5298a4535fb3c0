"""Pictures: the only place that imports matplotlib. They take plain tables and return a Figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(width: float, height: float) -> "Figure":
    """A figure that belongs to no global state and needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive steps of one phase. rates: [steps][groups]; the first `frozen` groups rest."""

    name: str
    frozen: int
    rates: list[tuple[float, ...]]


def plot_rates(spans: Sequence[Span], groups: Sequence[str]) -> "Figure":
    """The learning rate of every layer group over all steps, logarithmic; dotted while frozen.

    groups: names, first layers first.
    """
    figure = _figure(9, 4.2)
    axes = figure.subplots()
    starts = np.cumsum([0, *(len(span.rates) for span in spans)]).tolist()
    for i, name in reversed(list(enumerate(groups))):
        for start, span in zip(starts, spans, strict=False):
            style: dict[str, Any] = {"linewidth": 2, "label": name if span is spans[-1] else None}
            if span.frozen > i:
                style.update(linewidth=1.5, linestyle=(0, (1, 2)))
            rates = [row[i] for row in span.rates]
            axes.plot(range(start, start + len(rates)), rates, color=f"C{i}", **style)
    for start, span in zip(starts, spans, strict=False):
        if start:
            axes.axvline(start, color="0.5", linewidth=1)
        place = axes.get_xaxis_transform()
        axes.text(start, 1.02, f" {span.name}", transform=place, color="0.35")
    axes.set_yscale("log")
    axes.set_xlim(0, starts[-1])
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.25)
    dots = " (dotted: frozen)" if any(span.frozen for span in spans) else ""
    figure.legend(
        loc="outside lower center", title=f"layer group{dots}", ncols=len(groups), frameon=False
    )
    return figure


def plot_predictions(
    images: Sequence[Any],
    targets: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    *,
    columns: int = 6,
) -> "Figure":
    """Pictures with the predicted class, its probability, and the right class where it was missed.

    images: [N] anything that matplotlib shows: arrays [H, W] or [H, W, 3], PIL images.
    """
    rows = -(-len(images) // columns)
    figure = _figure(columns * 1.6, rows * 1.9)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i >= len(images):
            continue
        right = targets[i] == predicted[i]
        axes.imshow(images[i], cmap="gray" if np.ndim(images[i]) == 2 else None)
        text = f"{predicted[i]}  {probabilities[i]:.0%}"
        axes.set_title(
            text if right else f"{text}\n(is {targets[i]})",
            fontsize=10,
            color="#1a7f37" if right else "#c62828",
        )
    return figure
