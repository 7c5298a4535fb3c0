"""The `finetune` command, as a process and in this one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import write_photos

from finetune.cli import main

COMMAND = str(Path(sys.executable).parent / "finetune")
QUICK = Path(__file__).resolve().parents[1] / "configs" / "quick.yaml"
SMALL = [
    "--model", "test_efficientnet", "--weights", "null", "--image_size", "32", "--batch_size", "8",
]  # fmt: skip


def finetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_train_with_a_config_then_predict(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = finetune("train", photos, "--config", QUICK, *SMALL, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    files = {"config.yaml", "checkpoint.ckpt", "history.csv", "steps.csv", "learning_rates.png"}
    assert {path.name for path in output.iterdir()} == files | {"model"}
    assert (
        len((output / "history.csv").read_text().splitlines()) == 6
    )  # header, 4 frozen, 1 unfrozen
    stored = yaml.safe_load((output / "config.yaml").read_text())
    assert (stored["epochs"], stored["model"]) == (1, "test_efficientnet")  # file, command line

    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    good = photos / "red" / "000.jpg"
    done = finetune("predict", output / "model", good, broken)
    assert done.returncode == 1
    assert done.stdout.split()[0] == str(good)
    assert done.stdout.split()[2] in ("blue", "green", "red")
    assert f"can't read image {broken}" in done.stderr


def test_an_interrupted_run_is_continued_by_the_same_command(tmp_path: Path) -> None:
    folder, output = write_photos(tmp_path / "photos", per_class=20), tmp_path / "run"
    command = [COMMAND, "train", folder, *SMALL, "--epochs", "25", "--output", output]
    arguments = list(map(str, command))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("unfrozen") for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    assert (output / "history.csv").is_file()
    done = finetune(*command[1:])
    assert done.returncode == 0, done.stderr
    assert "continuing after" in done.stdout
    assert len((output / "history.csv").read_text().splitlines()) == 30  # header, 4 + 25 epochs


def test_no_image_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "photos", "--epochz", "3"], "did you mean 'epochs'?"),
        (["train", "photos", "--epochs", "many"], "epochs"),
        (["train", "photos", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["predict"], "required"),
        (["cook"], "cook"),
    ],
)
def test_wrong_usage_is_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unknown_key_in_a_config_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("batchsize: 3\n")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "photos", "--config", str(file)])
    assert "did you mean 'batch_size'?" in capsys.readouterr().err


def test_an_existing_output_folder_stays(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    assert main(["train", str(photos), *SMALL, "--output", str(tmp_path)]) == 1
    assert "is no run folder; give another --output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_with_other_settings_is_not_overwritten(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), *SMALL, "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--epochs", "2"]) == 1
    assert "holds a run with other settings (epochs)" in capsys.readouterr().err
    assert main(command) == 1
    assert "holds this run, finished" in capsys.readouterr().err


def test_the_config_of_a_run_repeats_it(photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    assert main(["train", str(photos), *SMALL, "--epochs", "1", "--output", str(first)]) == 0
    assert main(["train", "--config", str(first / "config.yaml"), "--output", str(second)]) == 0
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]


def test_predict_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["predict", str(tmp_path), "image.jpg"]) == 1
    assert "is no exported model" in capsys.readouterr().err


def test_a_run_that_failed_at_once_does_not_lock_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / "red" / "broken.jpg").write_text("no image")
    command = ["train", str(folder), *SMALL, "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main(command) == 1
    assert "can't read image" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="left out 1 unreadable images"):
        assert main([*command, "--on_error", "skip"]) == 0


def test_no_epochs_are_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(photos), "--epochs", "0", "--output", str(tmp_path / "run")]) == 1
    assert "epochs must be a positive whole number, got 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_predict_with_a_run_folder_names_the_model_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    assert main(["predict", str(tmp_path), "image.jpg"]) == 1
    assert "is a run folder; its model is" in capsys.readouterr().err
