"""The figure of a confusion matrix."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from finetune.interpret.confusion import plot_confusion_matrix


def draw(classes: int, *, normalize: bool = False, name: str = "class") -> Figure:
    noise = np.random.default_rng(0)
    matrix = noise.poisson(0.5, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    return plot_confusion_matrix(
        matrix, [f"{name} {i}" for i in range(classes)], normalize=normalize
    )


def test_cells_hold_counts_and_cells_of_0_are_empty() -> None:
    figure = plot_confusion_matrix(np.array([[8, 2], [0, 1000]]), ["cat", "dog"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["8", "2", "1,000"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cat", "dog"]


def test_normalised_cells_hold_shares_of_the_row() -> None:
    figure = plot_confusion_matrix(np.array([[8, 2], [0, 0]]), ["a", "b"], normalize=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["80%", "20%"]


def test_mistakes_have_another_colour_than_right_predictions() -> None:
    colours = draw(4).axes[0].images[0].get_array()
    right, wrong = colours[0, 0], colours[1, 0]
    assert right[2] > right[0]  # blue
    assert wrong[0] > wrong[2]  # orange


def test_cells_show_their_share_and_the_page_where_there_is_none() -> None:
    for classes in (3, 40):  # with numbers, and without
        matrix = 20 * np.eye(classes, dtype=int)
        matrix[0, 1:3] = 1, 15
        opacity = plot_confusion_matrix(matrix, ["name"] * classes).axes[0].images[0].get_array()
        none, few, most = opacity[1, 0, 3], opacity[0, 1, 3], opacity[0, 2, 3]
        assert 0 == none < few < most < opacity[1, 1, 3]


@pytest.mark.parametrize(
    ("classes", "name"), [(2, "c"), (10, "a quite long name of a class"), (60, "class name")]
)
def test_no_label_is_cut_off_or_covers_another(classes: int, name: str) -> None:
    figure = draw(classes, name=name)
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    boxes = [t.get_window_extent() for t in (*labels, figure._suptitle, axes.yaxis.label)]
    assert min(min(box.x0, box.y0) for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert max(box.y1 for box in boxes) <= figure.bbox.y1
    heights = sorted((b.y0, b.y1) for b in (t.get_window_extent() for t in axes.get_yticklabels()))
    assert all(low[1] <= high[0] + 1 for low, high in pairwise(heights))
