"""Predictions for a folder: the same as one by one, ahead in threads, errors as rows."""

import csv
import io
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune import Learner, Prediction, write_csv, write_jsonl
from finetune.inference.files import predict_files
from finetune.tasks import FilePrediction, SingleLabel

ROWS = [
    FilePrediction("torn.jpg", error="it is torn"),
    FilePrediction("a.jpg", "cat", 0.75, {"cat": 0.75, "label": 0.25}),
]


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Three images in two folders, one that is torn, and a text."""
    (tmp_path / "deeper").mkdir()
    for label, name in (("red", "c.jpg"), ("blue", "a.png"), ("green", "deeper/b.jpg")):
        Image.open(photos / label / "000.jpg").save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_folder_gives_what_single_images_give(
    trained: Learner, folder: Path, batch_size: int
) -> None:
    rows = list(trained.predictor().predict_folder(folder, batch_size=batch_size))
    names = ["a.png", "b.jpg", "c.jpg", "deeper/b.jpg"]
    assert [row.path for row in rows] == [str(folder / name) for name in names]
    for row in rows[:1] + rows[2:]:
        alone = trained.predict(row.path)
        assert (row.label, row.error) == (alone.label, "")
        assert row.probability == pytest.approx(alone.probability, abs=1e-6)
        assert row.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_an_unreadable_image_is_a_row_with_its_reason(trained: Learner, folder: Path) -> None:
    files = [folder / "b.jpg", str(folder / "gone.jpg"), folder / "a.png"]
    torn, gone, good = trained.predictor().predict_folder(iter(files))
    assert torn[:4] == (str(folder / "b.jpg"), None, None, {})
    assert "cannot identify image file" in torn.error
    assert gone.error == "there is no such file"
    assert good.label is not None


def test_other_errors_are_not_hidden() -> None:
    def read(path: str) -> Tensor:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(predict_files(["a"], read, lambda inputs: [], SingleLabel().file_prediction))


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("gone", {}, FileNotFoundError, "'gone' does not exist"),
        (__file__, {}, FileNotFoundError, "is a file"),
        ([], {"batch_size": 0}, ValueError, "whole number of at least 1, got 0"),
    ],
)
def test_mistakes_are_told_at_the_call(
    trained: Learner, given: object, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trained.predictor().predict_folder(given, **options)


def test_a_folder_without_images_is_named(trained: Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no image in"):
        trained.predictor().predict_folder(tmp_path)


def test_few_images_are_in_memory_and_they_are_read_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield str(number)

    def predict(inputs: object) -> list[Prediction]:
        return [Prediction("a", 1.0, {"a": 1.0}) for _ in inputs]  # type: ignore[attr-defined]

    rows = predict_files(
        endless(),
        lambda path: torch.zeros(1),
        predict,
        SingleLabel().file_prediction,
        batch_size=4,
    )
    for count in range(1, 101):
        next(rows)
        ahead = len(taken) - count
        assert 8 <= ahead < 12
    rows.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("predict")]


def test_csv_has_a_column_for_each_class() -> None:
    stream = io.StringIO(newline="")
    assert write_csv(ROWS, stream) == (2, 1)
    assert list(csv.reader(stream.getvalue().splitlines())) == [
        ["path", "label", "probability", "error", "p(cat)", "p(label)"],
        ["torn.jpg", "", "", "it is torn", "", ""],
        ["a.jpg", "cat", "0.75", "", "0.75", "0.25"],
    ]


@pytest.mark.parametrize("name", ["path", "label", "probability", "error"])
def test_csv_of_a_regression_has_no_column_twice(name: str) -> None:
    stream = io.StringIO(newline="")
    write_csv([FilePrediction("a.jpg", probabilities={name: 1.5})], stream)
    (row,) = csv.DictReader(stream.getvalue().splitlines())
    assert (row["path"], row[f"value({name})"]) == ("a.jpg", "1.5")


def test_json_lines_hold_the_fields(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    assert write_jsonl(iter(ROWS), file) == (2, 1)
    torn, good = map(json.loads, file.read_text().splitlines())
    assert (torn["error"], torn["label"]) == ("it is torn", None)
    assert good == ROWS[1].to_dict()


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    def rows() -> Iterator[FilePrediction]:
        yield ROWS[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(rows(), tmp_path / "rows.csv")
    assert "a.jpg,cat" in (tmp_path / "rows.csv").read_text()


def test_no_rows_are_a_header(tmp_path: Path) -> None:
    assert write_csv([], tmp_path / "rows.csv") == (0, 0)
    assert (tmp_path / "rows.csv").read_text() == "path,label,probability,error\n"


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_a_name_that_is_no_text_is_written_all_the_same(write: Any, tmp_path: Path) -> None:
    rows = [FilePrediction("caf\udce9.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.1})]
    assert write(rows, tmp_path / "out") == (1, 0)
    assert "caf" in (tmp_path / "out").read_text()
