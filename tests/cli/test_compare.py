"""`finetune compare`: a table, a recommendation, and the same as JSON."""

import json
from pathlib import Path

import pytest
from support import write_photos

from finetune.cli.entry import COULD_NOT, DONE, WRONG_USAGE, main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("compared") / "photos", per_class=10)


def test_a_table_names_all_and_recommends_one(photos: Path, capsys: pytest.CaptureFixture[str]):
    words = ["compare", str(photos), "test_resnet", "test_vit", "--image-size", "32"]
    code = main([*words, "--weights", "null", "--batch-size", "8", "--json"])
    output = capsys.readouterr()
    assert code == DONE
    answer = json.loads(output.out)
    assert {row["name"] for row in answer["candidates"]} >= {"test_resnet", "test_vit"}
    assert answer["recommended"] in {row["name"] for row in answer["candidates"]}
    assert "recommended: " in output.err


def test_without_a_backbone_it_says_what_it_needs(photos: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare"]) == WRONG_USAGE
    assert "needs BACKBONES" in capsys.readouterr().err


def test_an_unknown_backbone_is_named(photos: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", str(photos), "resnet5", "--batch-size", "8"]) == COULD_NOT
    assert "resnet5" in capsys.readouterr().err
