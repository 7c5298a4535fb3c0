"""Mistakes on the command line: one line, the nearest name, the right exit code."""

import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.cli.mistakes import absent
from finetune.models import hub


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "photos", "--epochz", "3"], "there is no option --epochz; did you mean '--ep"),
        (["train", "photos", "--backbone", "x"], "no option --backbone; did you mean '--model'?"),
        (["train", "photos", "--ep", "3"], "there is no option --ep; did you mean '--epochs'?"),
        (["train", "photos", "-x"], "there is no option -x; there are --json, --config"),
        (["train", "photos", "--epochs", "many"], "--epochs needs a whole number, got 'many'"),
        (["train", "photos", "--epochs", "5.5"], "--epochs needs a whole number, got '5.5'"),
        (["train", "photos", "--epochs="], "--epochs needs a whole number, got ''"),
        (["train", "photos", "--lr-mult", "x"], "--lr-mult needs a number or null, got 'x'"),
        (["train", "photos", "--resize", "crap"], "did you mean 'crop'?"),
        (["train", "photos", "--epochs"], "--epochs has no value behind it; it needs a whole nu"),
        (["train", "--epochs", "--seed", "1"], "--epochs has no value behind it"),
        (["train", "photos", "--json=yes"], "--json takes no value, got 'yes'"),
        (["train", "photos", "--config", "nowhere.yaml"], "nowhere.yaml' does not exist"),
        (["train", "photos", "--config", "."], "'.' can't be read: Is a directory"),
        (["train", "photos", "more"], "train takes no further argument, got 'more'"),
        (["export", "run", "--format", "onxx"], "did you mean 'onnx'?"),
        (["predict"], "predict needs MODEL and IMAGES: finetune predict MODEL IMAGES ... [OPTION"),
        (["predict", "run"], "predict needs IMAGES: finetune predict"),
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
    ],
)
def test_wrong_usage_is_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"batchsize: 3\n", "'my.yaml' has an unknown key 'batchsize'; did you mean 'batch_size'?"),
        (b"3: batch_size\n", "'my.yaml' has an unknown key 3; there are data, csv"),
        (b"epochs: many\n", "epochs in 'my.yaml' needs a whole number, got 'many'"),
        (b"epochs: 5.0\n", "epochs in 'my.yaml' needs a whole number, got 5.0"),
        (b"epochs: null\n", "epochs in 'my.yaml' needs a whole number, got null"),
        (b"epochs: [1\n", "'my.yaml' is no valid YAML: line 2, column 1: while parsing a flow"),
        (b"epochs: 1\x07\n", "'my.yaml' is no valid YAML: unacceptable character"),
        (b"model: caf\xe9\n", "'my.yaml' is no UTF-8 text"),
        (b"- 3\n", "'my.yaml' holds no settings"),
        (b"", "'my.yaml' holds no settings"),
    ],
)
def test_a_mistake_in_a_config_file_is_answered_in_one_line(
    text: bytes, message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_bytes(text)
    assert main(["train", "photos", "--config", "my.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"finetune train: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere"], "nowhere' does not exist; it needs"),
        (["train"], "there are no images: give a FOLDER"),
        (["train", "x", "--epochs", "0"], "--epochs must be a whole number of at least 1, got 0"),
        (["train", "x", "--lr-mult", "3", "--layer-decay", "0.5"], "give one of them"),
        (["train", "x", "--schedule", "one_cycle", "--freeze-epochs", "3"], "freezes nothing"),
        (["train", "x", "--schedule", "one_cycle", "--interpolate"], "no second phase"),
        (["train", "x", "--schedule", "one_cycle", "--unfreeze", "all"], "trains everything"),
        (["train", "x", "--lr-mult", "0"], "--lr-mult must be a finite number above 0, got 0"),
        (["train", "x", "--formats", "[]"], "names nothing to write"),
        (["lr-find", "x", "--curve", "curve.txt"], "must end in .png, .svg or .pdf"),
        (["lr-find", "x", "--curve", "curve"], "must end in .png, .svg or .pdf"),
        (["predict", "nowhere", "image.jpg"], "'nowhere' does not exist"),
        (["predict", ".", "nowhere"], "'nowhere' does not exist"),
        (["predict", ".", "image.jpg"], "is no exported model"),
        (["predict", "nowhere", "image.jpg", "--output", "a.txt"], "must end in .csv or .jsonl"),
        (["evaluate", "nowhere", "photos"], "'nowhere' does not exist"),
        (["evaluate", ".", "nowhere"], "'nowhere' does not exist"),
        (["export", "nowhere"], "'nowhere' does not exist"),
        (["models", "resnext*99"], "no backbone matches 'resnext*99'; did you mean '"),
        (["inspect", "resnet81"], "is no file or folder here, and there is no backbone"),
    ],
)
def test_a_command_that_can_not_run_is_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith(f"finetune {arguments[0]}: error: ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing is begun


@pytest.mark.parametrize("command", ["train", "inspect"])
def test_folders_of_a_split_are_answered_with_the_options_to_pass(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    assert main([command, str(tmp_path)]) == 1
    assert "pass --train train, --valid val" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("phots", "'phots' does not exist; did you mean 'photos'?"),
        ("phots/red", "'phots/red' does not exist; did you mean 'photos'?"),
        ("photos/rad", "'photos/rad' does not exist; did you mean 'red'?"),
        ("zebra", "'zebra' does not exist"),
    ],
)
def test_a_missing_path_is_answered_with_the_nearest_name(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "red").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert absent(path) == message


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_missing_model_is_answered_with_the_nearest_name(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    assert main([command, str(tmp_path / "phots"), str(tmp_path)]) == 1
    assert "did you mean 'photos'?" in capsys.readouterr().err


def test_a_missing_config_file_is_answered_with_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "strong.yaml").write_text("epochs: 1\n")
    assert main(["train", "photos", "--config", str(tmp_path / "strng.yaml")]) == 2
    assert "did you mean 'strong.yaml'?" in capsys.readouterr().err


def test_inspect_answers_a_config_file_with_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("epohcs: 1\n")
    assert main(["inspect", str(tmp_path / "my.yaml")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("finetune inspect: error: ")
    assert "unknown key 'epohcs'; did you mean 'epochs'?" in error
    assert error.count("\n") == 1


def test_invalid_yaml_in_a_run_folder_is_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("epochs: [1\n")
    assert main(["inspect", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "config.yaml' is no valid YAML" in error
    assert error.count("\n") == 1


def test_an_invalid_csv_file_is_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text(f"file,label\na.jpg,{'x' * 200_000}\n")
    assert main(["train", "--csv", str(tmp_path / "labels.csv")]) == 1
    error = capsys.readouterr().err
    assert "field larger than field limit" in error
    assert error.count("\n") == 1


def test_a_missing_library_of_a_format_is_an_error_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    command = ["train", str(tmp_path / "nowhere"), "--formats", "onnx"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 1
    assert "pip install 'finetune-vision[onnx]'" in capsys.readouterr().err


def test_a_hub_out_of_reach_is_answered_in_one_line_with_the_way_out(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(url: str, timeout: float) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", fails)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    output = tmp_path / "run"
    command = ["train", str(photos), "--batch-size", "8", "--model", "resnet18"]
    assert main([*command, "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "the model hub can't be reached (Name or service not known)" in error
    assert "--weights weights.safetensors" in error
    assert error.count("\n") == 1
    assert not output.exists()
