"""Training loss of every step, with the loss and metrics of validation after every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from finetune.interpret import figure as shared
from finetune.interpret.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Validation: TypeAlias = Sequence[tuple[float, Mapping[str, float]]]
"""Pairs of an epoch, at whose end the model was validated, and its results: "loss" and the metrics
by name."""

TRAINING, VALIDATION = "#1f77b4", "#d95f02"
_VALIDATION_STYLE: Mapping[str, Any] = {
    "marker": "o",
    "markersize": 4.5,
    "linewidth": 1.5,
    "clip_on": False,  # the last point lies on the right border
}


def smooth(values: np.ndarray, window: float) -> np.ndarray:
    """Exponential mean over about `window` values, corrected for its start.

    values: [N] float. Returns [N]. A value that is not finite is left out: the mean stays what it
    was before, and is NaN as long as there was none.

    >>> smooth(np.array([1.0, 1.0, 4.0]), 2).round(2).tolist()
    [1.0, 1.0, 2.71]
    """
    decay = 1 - 1 / window
    weighted_sum = 0.0
    weight = 0.0
    means = np.full_like(values, np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            weighted_sum = decay * weighted_sum + value
            weight = decay * weight + 1
        if weight:
            means[i] = weighted_sum / weight
    return means


def plot_losses(
    spans: Sequence[Span],
    losses: Sequence[float],
    validation: Validation,
) -> Figure:
    """Plots the losses of training and validation over epochs, and the metrics below them.

    The training loss of every step is a pale line, its smoothed course a strong one.

    losses: [steps]. validation: may be empty.
    """
    metric_names = _list_metrics(validation)
    heights = (2.8, 1.5) if metric_names else (3.4,)
    with shared.house_style():
        figure, axes = shared.new_axes(*heights)
        _plot_loss(axes[0], spans, np.asarray(losses, dtype=float), validation)
        if metric_names:
            _plot_metrics(axes[1], metric_names, validation)
        shared.mark_epochs(axes, spans)
        shared.add_line_legend(axes[0])
        if len(metric_names) > 1:
            shared.add_line_legend(axes[1])
    return figure


def _list_metrics(validation: Validation) -> list[str]:
    """Names of the metrics in the order in which they first appear."""
    names: dict[str, None] = {}  # used as a set that keeps the order
    for _, results in validation:
        names.update(dict.fromkeys(results))
    names.pop("loss", None)
    return list(names)


def _values_over_epochs(validation: Validation, name: str) -> tuple[list[float], list[float]]:
    """The epochs in which validation gave this value, and the values."""
    epochs, values = [], []
    for epoch, results in validation:
        if name in results:
            epochs.append(epoch)
            values.append(results[name])
    return epochs, values


def _plot_loss(
    axes: Axes,
    spans: Sequence[Span],
    losses: np.ndarray,
    validation: Validation,
) -> None:
    label = "training"
    for span in spans:
        span_losses = losses[span.first : span.last]
        window = max(1.0, min(25.0, len(span_losses) / 20))
        smoothed = smooth(span_losses, window)
        axes.plot(span.epochs, span_losses, color=TRAINING, alpha=0.28, linewidth=0.9)
        axes.plot(span.epochs, smoothed, color=TRAINING, linewidth=2, label=label)
        label = ""  # one entry in the legend is enough for all spans
    epochs, validation_losses = _values_over_epochs(validation, "loss")
    if epochs:
        axes.plot(
            epochs, validation_losses, color=VALIDATION, label="validation", **_VALIDATION_STYLE
        )
    axes.set_ylabel("loss")
    axes.set_ylim(*_limits(losses, validation_losses))


def _plot_metrics(axes: Axes, names: Sequence[str], validation: Validation) -> None:
    if len(names) == 1:
        colours = [VALIDATION]
        axes.set_ylabel(names[0])
    else:
        colours = shared.group_colours(len(names))
        axes.set_ylabel("metrics")
    for colour, name in zip(colours, names, strict=True):
        epochs, values = _values_over_epochs(validation, name)
        axes.plot(epochs, values, color=colour, label=name, **_VALIDATION_STYLE)


def _limits(training_losses: np.ndarray, validation_losses: Sequence[float]) -> tuple[float, float]:
    """Limits of the axis that show all losses but the few highest of training.

    A single peak of the training loss would press the rest of the curve into a flat line.
    """
    finite_of_training = training_losses[np.isfinite(training_losses)]
    finite = [loss for loss in validation_losses if math.isfinite(loss)]
    if len(finite_of_training):
        finite.append(float(np.quantile(finite_of_training, 0.995)))
        finite.append(float(finite_of_training.min()))
    if not finite:
        return 0.0, 1.0
    high, low = max(finite), min(finite)
    margin = 0.05 * (high - low) or 0.1
    top = high + margin
    if 0 <= low < 0.3 * high:
        return 0.0, top  # losses near 0 are read against 0
    return low - margin, top
