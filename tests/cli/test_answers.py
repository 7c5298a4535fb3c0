"""What `finetune train` fits after training: checked before it, and part of the model."""

from pathlib import Path

import pytest

from finetune import load_learner
from finetune.cli import main


@pytest.mark.filterwarnings("ignore:all 5 predictions are right")
def test_sets_of_a_coverage_are_in_the_model_and_in_what_predict_prints(
    photos: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    command = ["train", str(photos), *small, "--probe", "--coverage", "0.6"]
    assert main([*command, "--output", str(output)]) == 0
    image = photos / "red" / "000.jpg"
    prediction = load_learner(output / "model").predict(image)
    assert prediction.set
    assert prediction.unknown is not None
    capsys.readouterr()
    assert main(["predict", str(output), str(image), "--json"]) == 0
    assert '"set": [' in capsys.readouterr().out


def test_thresholds_are_in_the_model(
    photos: Path, tables: Path, small: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    table = ["--csv", str(tables / "labels.csv"), "--image-column", "file"]
    task = ["--label-column", "labels", "--task", "multi_label", "--label-delimiter", "|"]
    command = ["train", str(photos), *table, *task, *small, "--probe", "--tune-thresholds"]
    assert main([*command, "--output", str(output)]) == 0
    thresholds = load_learner(output / "model").thresholds
    assert any(threshold != 0.5 for threshold in thresholds.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coverage", "1.5"], "coverage must be"),
        (["--coverage", "0.999"], "--coverage 0.999 needs at least 999 validation images"),
        (["--tune-thresholds"], "tune_thresholds is for several labels an image"),
        (["--adjust-priors", "{red: 0.5}"], "priors need a share of every class"),
    ],
)
def test_what_can_not_be_fitted_is_an_error_before_training(
    options: list[str],
    message: str,
    photos: Path,
    small: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    assert main(["train", str(photos), *small, *options, "--output", str(output)]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not output.exists()
