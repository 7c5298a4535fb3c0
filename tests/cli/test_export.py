"""`finetune export`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from finetune.cli import main


def test_an_exported_regression_says_that_it_gives_values(values_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(values_run), "--output", str(tmp_path / "out")]) == 0
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["formats"]["safetensors"]["output"] == "values"
    own = json.loads((values_run / "model" / "model.json").read_text())
    assert description["formats"] == own["formats"]


def test_a_license_is_kept_by_a_later_export(values_run: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main(["export", str(values_run), "--output", first, "--license", "mit"]) == 0
    assert main(["export", first, "--output", second]) == 0
    assert "license: mit" in (tmp_path / "second" / "README.md").read_text()


def test_eight_bits_are_calibrated_with_the_validation_images_of_the_run(
    run_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    assert main(["export", str(run_folder), "--format", "onnx_int8", "--output", str(target)]) == 0
    description = json.loads((target / "model.json").read_text())
    count = description["data"]["valid"]["images"]
    comparison = description["comparisons"]["onnx_int8"]
    assert comparison["images"] == count
    metrics = json.loads((run_folder / "metrics.json").read_text())
    accuracy = metrics["validation"]["accuracy"]
    assert comparison["before"]["accuracy"] == pytest.approx(accuracy)


def test_of_images_that_are_gone_nothing_is_compared(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run_folder, moved)
    settings = yaml.safe_load((moved / "config.yaml").read_text())
    settings["data"] = str(tmp_path / "nowhere")
    (moved / "config.yaml").write_text(yaml.safe_dump(settings))
    words = ["export", str(moved), "--output", str(tmp_path / "out"), "--format"]
    assert main([*words, "onnx_int8"]) == 1
    assert "the images of the run are gone (" in capsys.readouterr().err
    assert main([*words, "onnx_fp16"]) == 0
    assert "so that nothing is compared" in capsys.readouterr().out
