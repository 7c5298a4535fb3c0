"""`finetune inspect` of images in a given split, and of a table."""

import json
from pathlib import Path

import pytest
from support import write_photos

from finetune import CheckpointError
from finetune.cli import inspect, main
from finetune.training import checkpoint


def test_a_split_that_options_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, size in (("train", (48, 40)), ("val", (50, 40))):
        write_photos(tmp_path / part, classes=("red", "blue"), size=size)
    split = ["--train", "train", "--valid", "val", "--json"]
    assert main(["inspect", str(tmp_path), *split]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"blue": 16, "red": 16}


def test_a_table_is_described_by_its_columns_and_rows(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tables / "labels.csv"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"kind": "table", "columns": ["number", "file", "labels"], "rows": 24}


def test_several_backbones_have_their_groups_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "test_resnet,test_vit", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in answer["groups"]] == ["body_1", "body_2", "head"]
    assert answer["parameters"] > 600_000


def test_the_one_of_several_backbones_that_is_unknown_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "test_resnet,resnet_50"]) != 0
    assert "there is no backbone 'resnet_50' in timm" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_with_its_entry(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "run.ckpt", {"model": {}, "run": None})
    with pytest.raises(CheckpointError, match=r"run.ckpt' has no entry 'optimizer'"):
        inspect.run({"what": str(tmp_path / "run.ckpt")})
