"""The command line beside config files."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli import lr_find, main, train
from finetune.config import TrainConfig


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text("batch_size: 8\nepochs: 7\ndata: elsewhere\n")
    return str(path)


def test_what_is_typed_wins_over_a_config_before_and_after_it(file: str) -> None:
    for words in (
        ["photos", "--batch-size", "16", "--config", file],
        ["photos", "--batch-size", "16", f"--config={file}"],
        ["--config", file, "photos", "--batch-size", "16"],
    ):
        found = train.parser().parse(words)
        assert (found["batch_size"], found["epochs"]) == (16, 7), words


def test_a_folder_that_is_typed_wins_over_a_configs(file: str) -> None:
    for words in (["photos", "--config", file], ["--config", file, "photos"]):
        config = train.config_from(_without_json(train.parser().parse(words)))
        assert config.data == str(Path("photos").absolute())


def _without_json(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "json"}


def test_config_without_a_file_does_not_take_another_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "photos", "--config"]) == 2
    assert "--config: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--save-best", "photos"], True),
        (["photos", "--save-best"], True),
        (["--save-best", "--epochs", "3"], True),
        (["--save-best", "true"], True),
        (["--save-best", "false"], False),
        (["--save-best=false"], False),
        ([], False),
    ],
)
def test_save_best_is_a_switch_that_also_takes_a_value(words: list[str], expected: bool) -> None:
    found = train.parser().parse(words)
    assert found["save_best"] is expected
    assert found["folder"] == ("photos" if "photos" in words else None)


@pytest.mark.parametrize("command", ["train", "lr-find"])
def test_a_printed_config_holds_the_settings_alone(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([command, "photos", "--epochs", "3", "--print-config"]) == 0
    text = capsys.readouterr().out
    printed = yaml.safe_load(text)
    assert set(printed) == {field.name for field in fields(TrainConfig)}
    assert (printed["data"], printed["epochs"]) == ("photos", 3)
    (tmp_path / "my.yaml").write_text(text)
    again = train.parser().parse(["--config", str(tmp_path / "my.yaml")])
    assert {name: again[name] for name in printed} == printed


@pytest.mark.parametrize(
    ("command", "key", "value", "hint"),
    [
        (train, "folder", "x", "say data:"),
        (train, "json", "true", "give it on the command line"),
        (lr_find, "curve", "x.png", "give it on the command line"),
        (lr_find, "steps", "50", "give it on the command line"),
        (lr_find, "group", "all", "give it on the command line"),
    ],
)
def test_what_is_no_setting_is_refused_in_a_config_file(
    command: Any, key: str, value: str, hint: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "own.yaml").write_text(f"epochs: 3\n{key}: {value}\n")
    with pytest.raises(SystemExit):
        command.parser().parse(["--config", str(tmp_path / "own.yaml")])
    error = capsys.readouterr().err
    assert f"the config file has a key {key!r}, which is no setting; {hint}" in error
    assert error.count("\n") == 1
