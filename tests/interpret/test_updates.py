"""The figure of gradients and updates."""

import math

import numpy as np

from finetune.interpret.timeline import find_spans
from finetune.interpret.updates import plot_updates

SPANS = find_spans([("frozen", 0, 0, 0), ("unfrozen", 0, 0, 0), ("unfrozen", 0, 0, 10)], 20)
GRADIENTS = [(math.nan, 1.0), (2.0, 1.0), (math.inf, 0.0)]
RATIOS = [(math.nan, 1e-3), (1e-5, 1e-3), (1e-5, 1e-3)]


def test_gradients_and_ratios_are_logarithmic_with_a_line_for_each_group_and_phase() -> None:
    figure = plot_updates(SPANS, ["body", "head"], GRADIENTS, RATIOS)
    labels = [(axes.get_ylabel(), axes.get_yscale()) for axes in figure.axes]
    assert labels == [("norm of the gradient", "log"), ("update / weight", "log")]
    assert [len(axes.lines) for axes in figure.axes] == [5, 5]
    assert [text.get_text() for text in figure.axes[0].texts] == ["frozen", "unfrozen"]


def test_values_that_are_nan_zero_or_infinite_are_gaps() -> None:
    figure = plot_updates(SPANS, ["body", "head"], GRADIENTS, RATIOS)
    figure.canvas.draw()
    body, head = figure.axes[0].lines[2:4]
    assert np.array_equal(body.get_ydata(), [2.0, math.nan], equal_nan=True)
    assert np.array_equal(head.get_ydata(), [1.0, math.nan], equal_nan=True)
