"""The command line beside config files."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli import lr_find, main, predict, train
from finetune.cli.mistakes import UsageError
from finetune.config import TrainConfig


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text("batch_size: 8\nepochs: 7\ndata: elsewhere\n")
    return str(path)


def test_typed_options_win_over_a_config_before_and_after_them(file: str) -> None:
    for words in (
        ["photos", "--batch-size", "16", "--config", file],
        ["photos", "--batch-size", "16", f"--config={file}"],
        ["--config", file, "photos", "--batch-size", "16"],
    ):
        options = train.parser().parse(words)
        assert (options["batch_size"], options["epochs"]) == (16, 7), words


def test_a_typed_folder_wins_over_the_folder_of_a_config(file: str) -> None:
    for words in (["photos", "--config", file], ["--config", file, "photos"]):
        config = train.config_from(_without_json(train.parser().parse(words)))
        assert config.data == str(Path("photos").absolute())


def _without_json(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "json"}


def test_config_without_a_file_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "photos", "--config"]) == 2
    assert "--config has no value behind it; it needs a file" in capsys.readouterr().err


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
    options = train.parser().parse(words)
    assert options["save_best"] is expected
    assert options["folder"] == ("photos" if "photos" in words else None)


@pytest.mark.parametrize("command", ["train", "lr-find", "cross-validate"])
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


@pytest.mark.parametrize("text", ["[0, 4095]", "[[0, 3000], [-1, 1]]"])
def test_a_range_is_a_pair_or_one_for_each_channel(text: str, tmp_path: Path) -> None:
    expected = yaml.safe_load(text)
    assert train.parser().parse(["--value-range", text])["value_range"] == expected
    (tmp_path / "my.yaml").write_text(f"value_range: {text}\n")
    options = train.parser().parse(["--config", str(tmp_path / "my.yaml")])
    assert options["value_range"] == expected


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
def test_an_option_that_is_no_setting_is_refused_in_a_config_file(
    command: Any, key: str, value: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(f"epochs: 3\n{key}: {value}\n")
    message = f"own.yaml' has a key {key!r}, which is no setting; {hint}$"
    with pytest.raises(UsageError, match=message):
        command.parser().parse(["--config", str(tmp_path / "own.yaml")])


def test_a_later_config_wins_over_an_earlier_one(file: str, tmp_path: Path) -> None:
    (tmp_path / "later.yaml").write_text("epochs: 9\n")
    options = train.parser().parse(["--config", file, "--config", str(tmp_path / "later.yaml")])
    assert (options["batch_size"], options["epochs"]) == (8, 9)


def test_a_number_in_a_config_means_what_it_means_when_typed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base_lr: 1e-3\nweight_decay: {head: 1e-2}\n")
    typed = ["--base-lr", "1e-3", "--weight-decay", "{head: 1e-2}"]
    for words in (["--config", str(tmp_path / "own.yaml")], typed):
        options = train.parser().parse(words)
        assert options["base_lr"] == 0.001
        assert options["weight_decay"] == {"head": 0.01}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--base-lr", "-1e-3"], "base_lr", -0.001),
        (["--label-delimiter", "-"], "label_delimiter", "-"),
        (["--label-delimiter", "- "], "label_delimiter", "- "),
        (["--label-delimiter=--"], "label_delimiter", "--"),
        (["--", "--photos"], "folder", "--photos"),
        (["-3"], "folder", "-3"),
    ],
)
def test_a_value_may_begin_with_a_dash(words: list[str], name: str, value: Any) -> None:
    assert train.parser().parse(words)[name] == value


def test_the_last_argument_takes_words_before_and_after_options() -> None:
    options = predict.parser().parse(["run", "a.jpg", "--batch-size", "8", "b.jpg", "--", "-c.jpg"])
    assert options["model"] == "run"
    assert options["images"] == ["a.jpg", "b.jpg", "-c.jpg"]
    assert options["batch_size"] == 8


def test_help_wins_over_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--bogus", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: finetune predict MODEL IMAGES ... [OPTION")


def test_help_shows_each_option_once_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: finetune train [FOLDER] [--config FILE] [OPTION ...]")
    assert "--formats+" not in text
    assert "new head's weights (default: 0)" in text
    assert "; a space unless given --train" in text
