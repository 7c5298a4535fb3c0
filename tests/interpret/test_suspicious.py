"""Ranking of suspicious labels, and how they are shown."""

from pathlib import Path

import numpy as np
import pytest

from finetune.interpret.suspicious import (
    SuspiciousLabel,
    SuspiciousLabels,
    as_sure_as_right,
    rank_suspicious,
    suspicious_labels,
)


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


def judged(probabilities: np.ndarray, targets: np.ndarray) -> SuspiciousLabels:
    """All suspicious labels of examples that are called by their numbers."""
    classes = tuple(f"class {number}" for number in range(probabilities.shape[1]))
    return suspicious_labels(
        probabilities, targets, tuple(range(len(targets))), classes, len(targets), None
    )


def random_judge(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are sure and know nothing."""
    noise = np.random.default_rng(0)
    scores = noise.normal(0, 4, (count, classes))
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True), np.arange(count) % classes


def test_a_judge_that_guesses_suspects_nobody() -> None:
    for classes in (2, 10):
        labels = judged(*random_judge(30 * classes, classes))
        assert len(labels) == 0
        assert "agree with only" in repr(labels) or classes == 2


def test_certainty_goes_down_to_what_is_right_and_never_up() -> None:
    probabilities, targets = random_judge(200, 4)
    assert as_sure_as_right(probabilities, targets).max() < 0.5
    modest = np.full((4, 2), 0.4)
    modest[range(4), [0, 1, 0, 1]] = 0.6
    assert as_sure_as_right(modest, np.array([0, 1, 0, 1])) == pytest.approx(modest)


def test_a_label_that_is_nearly_as_probable_is_not_suspicious() -> None:
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.65, 0.35], [0.3, 0.7]])
    assert rank_suspicious(probabilities, np.array([0, 0, 1, 1])) == []


def test_few_images_a_class_are_said_to_be_few() -> None:
    sure = np.eye(2)[np.arange(60) % 2] * 0.8 + 0.1
    assert judged(sure, np.arange(60) % 2).caution == ""
    assert judged(sure[:30], np.arange(30) % 2).caution == (
        "fewer than 30 images in 2 of 2 classes, too few to judge surely: take these as hints"
    )


def test_a_table_for_corrections_names_images_below_the_folder(tmp_path: Path) -> None:
    row = SuspiciousLabel("photos/cat/a.jpg", "cat", "dog", 0.9, 0.05, 4)
    SuspiciousLabels([row], 1, 50).named_below(Path("photos")).to_csv(tmp_path / "c.csv")
    header, line = (tmp_path / "c.csv").read_text().splitlines()
    assert header == "image,label,action,new_label,looks_like,probability,label_probability"
    assert line == "cat/a.jpg,cat,,,dog,0.9,0.05"
