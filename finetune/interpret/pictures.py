"""Pictures with what a model says of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_predictions(
    images: Sequence[Any],
    targets: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    *,
    columns: int = 6,
) -> Figure:
    """Pictures with the predicted class, its probability, and the right class where it was missed.

    images: [N] anything that matplotlib shows: arrays [H, W] or [H, W, 3], PIL images.
    """
    rows = -(-len(images) // columns)
    with shared.look():
        figure = shared.new_figure(columns * 1.6, rows * 1.9)
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


def plot_pictures(images: Sequence[Any], titles: Sequence[str], *, columns: int = 6) -> Figure:
    """Pictures with a text above each. images: [N] anything that matplotlib shows."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = [textwrap.wrap(title, 20, max_lines=3, placeholder=" ...") or [""] for title in titles]
    with shared.look():
        figure = shared.new_figure(columns * 1.6, rows * (1.6 + 0.17 * max(map(len, lines))))
        for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.set_axis_off()
            if i < len(images):
                axes.imshow(images[i], cmap="gray" if np.ndim(images[i]) == 2 else None)
                axes.set_title("\n".join(lines[i]), fontsize=9.5, color=shared.INK, pad=4)
    return figure
