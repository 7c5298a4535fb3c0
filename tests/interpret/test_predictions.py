"""The table of predictions with one class per example."""

import csv
from pathlib import Path

import numpy as np
import pytest

from finetune.data.images.decode import read_image
from finetune.data.images.opening import ImageError
from finetune.interpret import analysis
from finetune.interpret.predictions import Confusion, Predictions

CLASSES = ("cat", "dog", "owl")
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
TARGETS = np.array([0, 1, 1, 2])


def table(**options: object) -> Predictions:
    losses = -np.log(PROBABILITIES[np.arange(4), TARGETS])
    items = ["a.jpg", "b, c.jpg", 7, "d.jpg"]
    return Predictions(items, CLASSES, TARGETS, np.log(PROBABILITIES), losses, **options)


def test_a_row_says_what_was_predicted_and_what_is_true() -> None:
    row = table()[1]
    assert row[:3] == ("b, c.jpg", "dog", "owl")
    assert row.probability == pytest.approx(0.6)
    assert row.loss == pytest.approx(-np.log(0.3))
    assert row.probabilities == pytest.approx(PROBABILITIES[1])
    assert [row.item for row in table()] == ["a.jpg", "b, c.jpg", 7, "d.jpg"]
    assert len(table()) == 4


def test_repr_and_tables_show_the_worst_first() -> None:
    shown = "Predictions(4 examples, 3 classes, 2 mistakes, accuracy 0.5000 ± 0.2500)"
    assert repr(table()) == shown
    lines = str(table()).splitlines()
    assert lines[3].split() == ["b,", "c.jpg", "dog", "owl", "0.600", "1.204"]
    text = table()._repr_html_()
    assert text.index("b, c.jpg") < text.index("d.jpg") < text.index("</table>")


def test_html_escapes_names() -> None:
    table = Predictions(["<b>.jpg"], ["a<b", "c"], [0], [[1.0, 0.0]], [0.3])
    assert "<b>" not in table._repr_html_()
    assert "a&lt;b" in table._repr_html_()


def test_csv_has_every_row_and_every_probability(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "new" / "p.csv")
    with (tmp_path / "new" / "p.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header[:5] == ["item", "target", "predicted", "probability", "loss"]
    assert header[5:] == ["probability of cat", "probability of dog", "probability of owl"]
    assert rows[1][:3] == ["b, c.jpg", "dog", "owl"]
    assert [float(cell) for cell in rows[1][5:]] == pytest.approx([0.1, 0.3, 0.6])
    assert len(rows) == 4


def test_mistakes_are_counted() -> None:
    assert table().confusion_matrix().tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert table().most_confused() == [Confusion("dog", "cat", 1), Confusion("dog", "owl", 1)]
    assert table().accuracy == 0.5


def test_top_losses_are_the_highest_first() -> None:
    assert [row.item for row in table().top_losses(2)] == ["b, c.jpg", 7]
    assert len(table().top_losses(99)) == 4
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
        table().top_losses(0)


def test_the_report_has_means_by_class_and_by_example() -> None:
    report = table().report()
    assert report.rows[1] == ("dog", 0.0, 0.0, 0.0, 2)
    assert report.macro.recall == pytest.approx(2 / 3)
    assert report.weighted.recall == pytest.approx(0.5)
    assert report.accuracy == 0.5
    assert "macro mean" in repr(report)
    assert "<td" in report._repr_html_()


def test_many_classes_in_a_small_type_are_counted_right() -> None:
    targets = np.arange(100, dtype=np.uint8)
    many = Predictions(range(100), list(map(str, range(100))), targets, np.eye(100), np.zeros(100))
    assert (many.confusion_matrix() == np.eye(100)).all()
    assert many.report().macro.f1 == 1


def test_the_report_needs_no_confusion_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Predictions, "confusion_matrix")
    monkeypatch.delattr(analysis, "confusion_matrix")
    assert table().report().rows[0].recall == 1


def test_a_temperature_changes_probabilities_and_nothing_else() -> None:
    softened = table().at_temperature(2.0)
    roots = np.sqrt(PROBABILITIES)
    assert softened.probabilities == pytest.approx(roots / roots.sum(axis=1, keepdims=True))
    assert (softened.predicted == table().predicted).all()
    assert (softened.losses == table().losses).all()
    assert softened.temperature() == pytest.approx(table().temperature())
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        table().at_temperature(0)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got nan"):
        table().at_temperature(float("nan"))


def test_without_a_mistake_the_temperature_stays_1() -> None:
    all_right = Predictions([0, 1], ["a", "b"], [0, 1], [[2.0, 0.0], [0.0, 2.0]], [0.1, 0.1])
    with pytest.warns(UserWarning, match="all 2 predictions are right"):
        assert all_right.temperature() == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((4, 2))}, r"scores must be \[N, 3\].*got shape \(4, 2\)"),
        ({"targets": np.zeros(3, dtype=int)}, "one row an example"),
        ({"targets": np.array([0, 1, 2, 3])}, "a target 3, but 3 classes"),
        ({"targets": np.array([0.0, 1, 2, 0])}, "class numbers from 0 on"),
        ({"targets": np.array([0, -1, 2, 0])}, "class numbers from 0 on"),
    ],
)
def test_columns_that_do_not_fit_together_are_an_error(changes: dict, message: str) -> None:
    columns = {"targets": TARGETS, "scores": PROBABILITIES, "losses": np.zeros(4), **changes}
    with pytest.raises(ValueError, match=message):
        Predictions(list(range(4)), CLASSES, **columns)


def test_a_table_without_examples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no examples"):
        Predictions([], CLASSES, np.zeros(0, dtype=int), np.zeros((0, 3)), [])


def test_plotting_images_of_data_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="have no images"):
        table().plot_top_losses()


def test_an_image_file_that_is_gone_is_named(tmp_path: Path) -> None:
    predictions = table(image=lambda i: read_image(tmp_path / f"{i}.jpg"))
    with pytest.raises(ImageError, match=r"1\.jpg.*no such file"):
        predictions.show_results(1)
