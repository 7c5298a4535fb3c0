"""Pictures with predictions."""

import numpy as np

from finetune.interpret.pictures import plot_predictions


def test_a_missed_picture_says_what_it_is() -> None:
    pictures = [np.zeros((4, 4)), np.zeros((4, 4, 3), dtype=np.uint8)]
    figure = plot_predictions(pictures, ["cat", "dog"], ["cat", "cat"], [0.9, 0.6])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["cat  90%", "cat  60%\n(is dog)"]
