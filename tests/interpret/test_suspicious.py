"""Ranking of suspicious labels, and how they are shown."""

import numpy as np
import pytest

from finetune.interpret.suspicious import SuspiciousLabel, SuspiciousLabels, rank_suspicious


def test_confident_disagreement_is_found_and_the_surest_comes_first() -> None:
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.02, 0.98], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]]
    )
    targets = np.array([0, 0, 0, 1, 1, 1])
    assert rank_suspicious(probabilities, targets) == [(2, 1), (5, 0)]


def test_a_hesitant_disagreement_is_not_suspicious() -> None:
    probabilities = np.array([[0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.05, 0.95]])
    assert rank_suspicious(probabilities, np.array([0, 0, 1, 1])) == []


def test_a_class_of_one_example_is_not_judged() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]])
    targets = np.array([0, 0, 1, 2])
    assert rank_suspicious(probabilities, targets) == []


def table(total: int = 3, image: object = None) -> SuspiciousLabels:
    rows = [SuspiciousLabel("a.jpg", "cat", "dog", 0.9, 0.05, 4)]
    return SuspiciousLabels(rows, total, 50, image)


def test_tables_say_how_many_labels_are_suspicious() -> None:
    assert repr(table()).startswith("3 of 50 labels are suspicious; the surest 1\n")
    assert repr(table()).splitlines()[-1].split() == ["a.jpg", "cat", "dog", "0.900", "0.050"]
    assert "a.jpg" in table()._repr_html_()
    assert repr(SuspiciousLabels([], 0, 50)) == "0 of 50 labels are suspicious"
    assert [row.item for row in table()] == [table()[0].item] == ["a.jpg"]


def test_images_are_shown_with_the_label_and_the_likelier_class() -> None:
    figure = table(image=lambda number: np.full((4, 4, 3), number)).plot()
    assert figure.axes[0].get_title() == "labelled cat\nlooks like dog 90%"
    assert figure.axes[0].images[0].get_array()[0, 0, 0] == 4


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(ValueError, match="have no images"):
        table().plot()
    with pytest.raises(ValueError, match="nothing to show: 0 of 50"):
        SuspiciousLabels([], 0, 50, lambda number: None).plot()
