"""Images with what a model says of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = "#1a7f37", "#c62828"
_CELL = 1.75  # inches, of an image's side


def plot_predictions(
    images: Sequence[Any],
    targets: Sequence[str],
    predicted: Sequence[str],
    probabilities: Sequence[float],
    *,
    columns: int = 6,
    caption: str = "",
    losses: Sequence[float] | None = None,
) -> Figure:
    """Images with the predicted class, its probability, and the right class where it was missed.

    images: [N] anything that matplotlib shows: arrays [H, W] or [H, W, 3], PIL images.
    """
    texts = []
    for i, (target, guess) in enumerate(zip(targets, predicted, strict=True)):
        lines = [f"{_short(guess, 14)}  {probabilities[i]:.0%}"]
        lines += [f"(is {_short(target, 16)})"] if guess != target else []
        lines += [f"loss {losses[i]:.2f}"] if losses is not None else []
        texts.append("\n".join(lines))
    right = [target == guess for target, guess in zip(targets, predicted, strict=True)]
    colours = [RIGHT if ok else WRONG for ok in right]
    return plot_grid(images, texts, colours, columns=columns, caption=caption)


def plot_grid(
    images: Sequence[Any],
    texts: Sequence[str],
    colours: Sequence[str],
    *,
    columns: int = 6,
    caption: str = "",
) -> Figure:
    """Images in rows, each below its text, with a caption above all."""
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    # a caption needs some width, even above a single image
    width = max(columns * _CELL, 4.0 if caption else 0.0)
    wrapped = textwrap.fill(caption, int(width * 12))
    above = 0.2 * (wrapped.count("\n") + 1) + 0.1 if caption else 0.0
    with shared.house_style():
        figure = shared.new_figure(width, rows * (_CELL + 0.17 * lines) + above)
        if caption:
            figure.suptitle(wrapped, x=0.01, ha="left", fontsize=10, color=shared.INK)
        for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.set_axis_off()
            if i >= len(images):
                continue
            axes.imshow(images[i], cmap="gray" if np.ndim(images[i]) == 2 else None)
            axes.set_title(texts[i], fontsize=9.5, color=colours[i])
            axes.set_anchor("N")  # so that the texts of a row are on one line
    return figure


def plot_images(images: Sequence[Any], titles: Sequence[str], *, columns: int = 6) -> Figure:
    """Images with a text above each. images: [N] anything that matplotlib shows."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = [textwrap.wrap(title, 20, max_lines=3, placeholder=" ...") or [""] for title in titles]
    with shared.house_style():
        figure = shared.new_figure(columns * 1.6, rows * (1.6 + 0.17 * max(map(len, lines))))
        for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.set_axis_off()
            if i < len(images):
                axes.imshow(images[i], cmap="gray" if np.ndim(images[i]) == 2 else None)
                axes.set_title("\n".join(lines[i]), fontsize=9.5, color=shared.INK, pad=4)
    return figure


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."
