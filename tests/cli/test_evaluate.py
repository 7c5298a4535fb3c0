"""`finetune evaluate` on tables: what the options leave open is as in the run's own."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from parquets import write_folder_as_parquet
from support import write_photos
from tars import write_folder_as_shards, write_tar

from finetune.cli import main
from finetune.data.packing import PackSettings, pack


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_labels_with_the_columns_and_the_delimiter_of_the_run(
    labels_run: Path, tables: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "predictions.csv"
    words = labels_run, tables / "labels.csv", "--data", photos, "--output", file
    found = evaluated(capsys, *words)
    assert [row["name"] for row in found["classes"]] == ["blue", "even", "green", "red"]
    assert [row["support"] for row in found["classes"]] == [8, 12, 8, 8]
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["item"] == str(photos / "blue" / "000.jpg")
    assert [row["target"] for row in rows[:2]] == ["blue, even", "blue"]


def test_values_with_the_targets_of_the_model(
    values_run: Path, tables: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "predictions.csv"
    words = values_run, tables / "values.csv", "--data", photos, "--output", file
    found = evaluated(capsys, *words)
    assert [row["name"] for row in found["targets"]] == ["width", "height"]
    mean = sum(row["mae"] for row in found["targets"]) / 2
    assert found["metrics"]["mae"] == pytest.approx(mean, rel=1e-4)
    with file.open() as stream:
        assert next(csv.DictReader(stream))["target"] == "width 0, height 0"


@pytest.mark.parametrize("columns", ["[height,width]", "width"])
def test_targets_in_another_order_are_refused(
    columns: str, values_run: Path, tables: Path, photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [str(values_run), str(tables / "values.csv"), "--data", str(photos)]
    assert main(["evaluate", *words, "--label-column", columns]) == 1
    error = capsys.readouterr().err
    assert "--label-column must name the model's targets in their order, width, height" in error


def test_images_of_training_are_counted(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_folder), str(photos)]) == 0
    count = json.loads((run_folder / "metrics.json").read_text())["images"]["training"]
    assert f"\n{count} of them were in the training of this run" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    assert evaluated(capsys, run_folder, copy)["images_trained_on"] == count
    assert evaluated(capsys, run_folder / "model", copy)["images_trained_on"] == 0


def test_other_images_are_not_called_training(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = write_photos(tmp_path / "others", per_class=2, size=(37, 41))
    assert main(["evaluate", str(run_folder), str(others)]) == 0
    assert "training" not in capsys.readouterr().out


def test_data_is_for_tables(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_folder), str(photos), "--data", str(photos)]) == 1
    assert "--data says what the paths of a table are relative to" in capsys.readouterr().err


def test_a_jsonl_file_has_a_json_object_a_line(
    run_folder: Path, photos: Path, tmp_path: Path
) -> None:
    for suffix in ("csv", "jsonl"):
        output = tmp_path / f"rows.{suffix}"
        assert main(["evaluate", str(run_folder), str(photos), "--output", str(output)]) == 0
    with (tmp_path / "rows.csv").open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(expected) > 1
    assert rows[0].keys() == expected[0].keys()
    assert [row["item"] for row in rows] == [row["item"] for row in expected]
    assert rows[0]["loss"] == pytest.approx(float(expected[0]["loss"]))


# --- tar and Parquet files


def test_shards_and_parquet_files_have_the_figures_of_their_folder(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = evaluated(capsys, run_folder, photos)
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    packed = pack(photos, tmp_path / "packed", PackSettings()).pattern
    files = write_folder_as_parquet(photos, tmp_path / "parquet", 2)
    for images in (shards, packed, files):
        answer = evaluated(capsys, run_folder, images)
        assert answer["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
        assert answer["classes"] == expected["classes"]
        if images != files:  # whose images are not compared one by one
            assert answer["images_trained_on"] == expected["images_trained_on"] > 0


def test_indices_of_shards_are_called_as_their_own_file_says(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {}
    for number, name in enumerate(["red", "blue"] * 3):
        file = photos / name / f"00{number}.jpg"
        members[f"{number}.jpg"] = file.read_bytes()
        members[f"{number}.cls"] = b"%d" % (number % 2)
    shard = write_tar(tmp_path / "a.tar", members)
    found = evaluated(capsys, run_folder, shard)
    assert {row["name"]: row["support"] for row in found["classes"]}["green"] == 3
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    found = evaluated(capsys, run_folder, shard)
    supports = {row["name"]: row["support"] for row in found["classes"]}
    assert supports == {"blue": 3, "green": 0, "red": 3}
    (tmp_path / "classes.txt").write_text("red\nviolet\n")
    assert main(["evaluate", str(run_folder), str(shard)]) == 1
    assert "violet" in capsys.readouterr().err


def test_shards_that_are_not_there_are_named(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for images, message in (
        (f"{tmp_path}/a-{{0..3}}.tar", "there is no shard"),
        (f"{tmp_path}/*.parquet", "there is no file"),
    ):
        assert main(["evaluate", str(run_folder), images]) == 1
        assert message in capsys.readouterr().err
