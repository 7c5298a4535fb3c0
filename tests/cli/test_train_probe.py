"""`finetune train --probe`: a run without training steps."""

import csv
import json
from pathlib import Path

import pytest

from finetune import Learner, load_learner
from finetune.cli import main

PROBE = [
    "--model", "test_resnet", "--weights", "null", "--image-size", "32", "--batch-size", "8",
    "--probe",
]  # fmt: skip


@pytest.fixture(scope="module")
def probe_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "probe"
    assert main(["train", str(photos), *PROBE, "--output", str(output)]) == 0
    return output


def test_the_run_has_a_model_with_a_linear_head_and_the_figures_of_validation(
    probe_run: Path, photos: Path
) -> None:
    answer = json.loads((probe_run / "metrics.json").read_text())
    assert answer["validation"]["accuracy"] == 1
    predictor = load_learner(probe_run / "model")
    assert predictor.predict(photos / "red" / "000.jpg").label == "red"
    assert "head of kind `linear`" in (probe_run / "model" / "README.md").read_text()


def test_the_history_is_one_row_of_the_probe(probe_run: Path) -> None:
    with (probe_run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["phase"] for row in rows] == ["probe"]
    assert not (probe_run / "steps.csv").exists()


def test_the_report_says_nothing_of_training_steps(probe_run: Path) -> None:
    page = (probe_run / "report.html").read_text().partition("all settings")[0]
    assert "fitted to the features of the frozen backbone" in page
    for of_steps in ("optimizer", "augmentation", "learning rate", "dropout"):
        assert of_steps not in page
    names = {path.name for path in probe_run.iterdir()}
    assert names.isdisjoint({"learning_rates.png", "losses.png"})


def test_the_same_command_says_that_the_run_is_finished(
    probe_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (probe_run / "checkpoint.ckpt").is_file()
    assert main(["train", str(photos), *PROBE, "--output", str(probe_run)]) == 1
    assert "holds this run, finished" in capsys.readouterr().err


def test_an_interrupted_probe_begins_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(learner: Learner) -> None:
        raise KeyboardInterrupt

    command = ["train", str(photos), *PROBE, "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "probe", interrupt)
        assert main(command) == 130
    assert not (tmp_path / "run" / "history.csv").exists()
    assert main(command) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_settings_of_training_are_refused_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--epochs", "3", "--mixup", "0.2", "--save-best"]
    assert main(["train", str(photos), *PROBE, *wrong, "--output", str(tmp_path / "run")]) == 1
    expected = "--probe does no training step, so that --epochs, --save-best, --mixup would change"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_that_a_probe_heeds_may_stand_beside_it(photos: Path, tmp_path: Path) -> None:
    heeded = ["--class-weights", "balanced", "--metrics", "f1", "--head", "linear"]
    output = tmp_path / "run"
    assert main(["train", str(photos), *PROBE, *heeded, "--output", str(output)]) == 0
    assert "f1" in json.loads((output / "metrics.json").read_text())["validation"]


def test_folds_are_probed_one_by_one(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cross-validate", str(photos), *PROBE, "--folds", "2", "--json"]
    assert main(command) == 0
    assert len(json.loads(capsys.readouterr().out)["folds"]) == 2
