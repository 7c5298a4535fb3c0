import csv
import json
from pathlib import Path

import pytest

from finetune.cli import main


@pytest.fixture(scope="module")
def words(photos: Path, small: list[str]) -> list[str]:
    return ["cross-validate", str(photos), *small, "--folds", "2", "--epochs", "1"]


def test_folds_are_summed_up_and_every_image_is_predicted(
    words: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    assert main([*words, "--predictions", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    accuracies = [fold["accuracy"] for fold in answer["folds"]]
    assert answer["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert answer["standard_errors"].keys() == answer["mean"].keys()
    assert [row["name"] for row in answer["report"]] == ["blue", "green", "red"]
    assert "fold 2 of 2" in err
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["item"] for row in rows] == sorted(map(str, photos.rglob("*.jpg")))
    assert {row["fold"] for row in rows} == {"0", "1"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--save-best"], "--save-best chooses an epoch by the images that it is validated on"),
        (["--predictions", "rows.txt"], "must end in .csv or .jsonl"),
        (["--folds", "1"], "--folds must be a whole number of at least 2"),
    ],
)
def test_mistakes_are_said_before_any_training(
    words: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 1
    assert message in capsys.readouterr().err
