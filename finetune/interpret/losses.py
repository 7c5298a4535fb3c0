"""Training loss of every step, and what validation gave after every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINING, VALIDATION = "#1f77b4", "#d95f02"


def smoothed(values: np.ndarray, window: float) -> np.ndarray:
    """Exponential mean over about `window` values, corrected for its start.

    >>> smoothed(np.array([1.0, 1.0, 4.0]), 2).round(2).tolist()
    [1.0, 1.0, 2.71]
    """
    past, mean, weight = 1 - 1 / window, 0.0, 0.0
    found = np.empty_like(values)
    for i, value in enumerate(values):
        mean, weight = past * mean + value, past * weight + 1
        found[i] = mean / weight
    return found


def plot_losses(
    spans: Sequence[Span],
    losses: Sequence[float],
    valid: Sequence[tuple[float, Mapping[str, float]]],
) -> Figure:
    """Training loss, every step pale and smoothed on top; validation below and in it.

    losses: [steps]. valid: epoch at whose end it was -> "loss" and each metric, may be empty.
    """
    names = list(dict.fromkeys(name for _, row in valid for name in row if name != "loss"))
    values, heights = np.asarray(losses, dtype=float), (2.8, 1.5) if names else (3.4,)
    with shared.house_style():
        figure, axes = shared.new_axes(*heights)
        for span in spans:
            own = values[span.first : span.last]
            mean = smoothed(own, max(1.0, min(25.0, len(own) / 20)))
            axes[0].plot(span.epochs, own, color=TRAINING, alpha=0.28, linewidth=0.9)
            label = "training" if span is spans[0] else None
            axes[0].plot(span.epochs, mean, color=TRAINING, linewidth=2, label=label)
        points = [(x, row["loss"]) for x, row in valid if "loss" in row]
        style: dict[str, Any] = {
            "marker": "o",
            "markersize": 4.5,
            "linewidth": 1.5,
            "clip_on": False,
        }
        if points:
            axes[0].plot(*zip(*points, strict=True), color=VALIDATION, label="validation", **style)
        axes[0].set_ylabel("loss")
        axes[0].set_ylim(*_limits(values, [y for _, y in points]))
        colours = [VALIDATION] if len(names) == 1 else shared.group_colours(len(names))
        for colour, name in zip(colours, names, strict=True):
            metric = [(x, row[name]) for x, row in valid if name in row]
            axes[1].plot(*zip(*metric, strict=True), color=colour, label=name, **style)
        if names:
            axes[1].set_ylabel(names[0] if len(names) == 1 else "metrics")
        shared.over_epochs(axes, spans)
        for with_names in axes[: 1 + (len(names) > 1)]:
            shared.line_legend(with_names)
    return figure


def _limits(losses: np.ndarray, valid: Sequence[float]) -> tuple[float, float]:
    """All of it, but for the few highest training losses, which would press down the rest."""
    finite = [loss for loss in valid if math.isfinite(loss)]
    top = max([float(np.quantile(losses, 0.995)), *finite])
    low = min([float(losses.min()), *finite])
    margin = 0.05 * (top - low) or 0.1
    return (0.0 if 0 <= low < 0.3 * top else low - margin), top + margin
