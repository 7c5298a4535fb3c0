"""Grids of images with texts: predictions, titles."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#2a8a45", "#e03c31"
_CELL = 1.75  # inches, of an image's side
_LINE = 0.17  # inches, of a line of text


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
    """Plots images with the predicted class and its probability, and the true class of mistakes.

    images: [N] anything that matplotlib shows: arrays [H, W] or [H, W, 3], PIL images. targets,
    predicted: [N] names of classes. losses: [N], written below each image; None leaves them out.
    """
    texts, colours = [], []
    for i, (target, prediction) in enumerate(zip(targets, predicted, strict=True)):
        is_right = target == prediction
        lines = [f"{shared.shorten(prediction, 14)}  {probabilities[i]:.0%}"]
        if not is_right:
            lines.append(f"(is {shared.shorten(target, 16)})")
        if losses is not None:
            lines.append(f"loss {losses[i]:.2f}")
        texts.append("\n".join(lines))
        colours.append(RIGHT if is_right else WRONG)
    return plot_grid(images, texts, colours, columns=columns, caption=caption)


def plot_grid(
    images: Sequence[Any],
    texts: Sequence[str],
    colours: Sequence[str],
    *,
    columns: int = 6,
    caption: str = "",
) -> Figure:
    """Plots images in rows, each below its text, with a caption above all.

    images: [N] anything that matplotlib shows. texts, colours of the texts: [N].
    """
    columns = min(columns, max(len(images), 1))
    rows = max(math.ceil(len(images) / columns), 1)
    most_lines = max((text.count("\n") + 1 for text in texts), default=1)
    width = columns * _CELL
    height = rows * (_CELL + _LINE * most_lines)
    if caption:
        width = max(width, 4.0)  # a caption needs some width, even above a single image
        caption = textwrap.fill(caption, int(width * 12))
        height += 0.2 * (caption.count("\n") + 1) + 0.1
    with shared.house_style():
        figure = shared.new_figure(width, height)
        if caption:
            figure.suptitle(caption, x=0.01, ha="left", fontsize=10)
        cells = _show_images(figure, images, rows, columns)
        for axes, text, colour in zip(cells, texts, colours, strict=True):
            axes.set_title(text, fontsize=9.5, color=colour)
            axes.set_anchor("N")  # so that the texts of a row are on one line
    return figure


def plot_images(images: Sequence[Any], titles: Sequence[str], *, columns: int = 6) -> Figure:
    """Plots images with a text above each, wrapped into at most three lines.

    images: [N] anything that matplotlib shows. titles: [N].
    """
    columns = min(columns, max(len(images), 1))
    rows = max(math.ceil(len(images) / columns), 1)
    texts = [textwrap.fill(title, 20, max_lines=3, placeholder=" ...") for title in titles]
    most_lines = max((text.count("\n") + 1 for text in texts), default=1)
    with shared.house_style():
        figure = shared.new_figure(columns * 1.6, rows * (1.6 + _LINE * most_lines))
        cells = _show_images(figure, images, rows, columns)
        for axes, text in zip(cells, texts, strict=True):
            axes.set_title(text, fontsize=9.5, pad=4)
    return figure


def _show_images(figure: Figure, images: Sequence[Any], rows: int, columns: int) -> list[Axes]:
    """Shows images row by row; returns the axes of each. Axes without an image stay empty."""
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    cells = list(grid.flat)[: len(images)]
    for axes, image in zip(cells, images, strict=True):
        is_grey = np.ndim(image) == 2
        axes.imshow(image, cmap="gray" if is_grey else None)
    return cells
