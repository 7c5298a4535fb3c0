"""Pictures: the only place that imports matplotlib. They take plain tables and return a Figure."""

from collections.abc import Sequence
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


def plot_rates(
    phases: Sequence[str],
    lrs: Sequence[Sequence[float]],
    frozen: Sequence[int],
    groups: Sequence[str],
    steps_per_epoch: int,
) -> "Figure":
    """The learning rate of every layer group over all steps, logarithmic; frozen spans are dashed.

    phases: [N] names, lrs: [N][G], frozen: [N] how many groups are frozen; groups: [G] names.
    """
    figure = _figure(9, 4.2)
    axes = figure.subplots()
    steps = np.arange(len(phases))
    rates = np.asarray(lrs)
    names = np.asarray(phases)
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist()]
    spans = list(zip(starts, [*starts[1:], len(phases)], strict=True))
    for i, name in reversed(list(enumerate(groups))):
        for start, end in spans:
            resting = frozen[start] > i
            style: dict[str, Any] = {"linewidth": 2, "label": name if end == len(phases) else None}
            if resting:
                style.update(linewidth=1.5, linestyle=(0, (1, 2)))
            axes.plot(steps[start:end], rates[start:end, i], color=f"C{i}", **style)
    axes.set_yscale("log")
    axes.set_xlim(0, len(phases))
    axes.set_xlabel(f"step ({steps_per_epoch} an epoch)")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.25)
    for start in starts:
        if start:
            axes.axvline(start, color="0.5", linewidth=1)
        axes.text(
            start, 1.02, f" {phases[start]}", transform=axes.get_xaxis_transform(), color="0.35"
        )
    dots = " (dotted: frozen)" if any(frozen) else ""
    axes.legend(loc="lower center", title=f"layer group{dots}", ncols=len(groups), frameon=False)
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
