"""`finetune pack`, and `finetune train --shards` with what it made."""

import json
from pathlib import Path

import pytest
from parquets import write_folder_as_parquet
from support import write_photos

from finetune.cli.entry import COULD_NOT, DONE, main


def test_a_packed_folder_trains(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos")
    words = ["pack", str(photos), str(tmp_path / "shards"), "--images", "10"]
    assert main([*words, "--json"]) == DONE
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert (answer["images"], answer["shards"]) == (24, 3)
    assert "24 images of 3 classes in 3 shards" in output.err
    assert f"finetune train --shards '{answer['pattern']}'" in output.err
    run = tmp_path / "run"
    train = ["train", "--shards", answer["pattern"], "--probe", "--output", str(run)]
    assert main([*train, *small]) == DONE
    assert "train-{0000..0002}.tar" in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["inspect", str(run), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["data"] == answer["pattern"]
    assert main(words) == COULD_NOT
    assert "already; remove such shards" in capsys.readouterr().err


def test_parquet_files_train_and_are_packed(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos")
    files = write_folder_as_parquet(photos, tmp_path / "files", 2)
    run = tmp_path / "run"
    train = ["train", "--shards", files, "--label-column", "label", "--probe"]
    assert main([*train, "--output", str(run), *small]) == DONE
    assert "train-*.parquet" in (run / "report.html").read_text()
    capsys.readouterr()
    assert main(["pack", files, str(tmp_path / "shards"), "--image-column", "image"]) == DONE
    assert "24 images of 3 classes in 1 shard" in capsys.readouterr().out
    assert main(["pack", str(photos), str(tmp_path / "s"), "--label-column", "a"]) == COULD_NOT
    assert "are for Parquet files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--shards", "a.tar"], "--data"),
        (["--csv", "a.csv", "--shards", "a.tar"], "--csv"),
        (["--shards", "nowhere-{0..3}.tar"], "there is no shard"),
        (["--shards", "a.parquet", "--label-column", "[a, b]"], "is one column"),
    ],
)
def test_settings_that_contradict_are_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == COULD_NOT
    assert message in capsys.readouterr().err
