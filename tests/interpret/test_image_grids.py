"""Grids of images with predictions."""

import numpy as np

from finetune.interpret.image_grids import plot_images, plot_predictions


def test_a_mistake_also_names_the_true_class() -> None:
    images = [np.zeros((4, 4)), np.zeros((4, 4, 3), dtype=np.uint8)]
    figure = plot_predictions(images, ["cat", "dog"], ["cat", "cat"], [0.9, 0.6])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["cat  90%", "cat  60%\n(is dog)"]


def test_no_image_at_all_is_an_empty_figure() -> None:
    assert plot_images([], []).axes
    assert plot_predictions([], [], [], []).axes
