"""Whether a run may begin or go on in a folder."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli import run_folder
from finetune.config import TrainConfig
from finetune.files.locks import InUseError

CONFIG = TrainConfig(data="photos")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    run_folder.write_config(tmp_path, CONFIG)
    (tmp_path / run_folder.CHECKPOINT).write_text("")
    return tmp_path


@pytest.mark.parametrize("other", [{"formats": "onnx"}, {"coverage": 0.9}])
def test_a_run_continues_with_what_does_not_change_its_training(
    other: dict[str, Any], unfinished: Path
) -> None:
    run_folder.check_free(unfinished, replace(CONFIG, **other))
    with pytest.raises(FileExistsError, match=r"other settings \(epochs\)"):
        run_folder.check_free(unfinished, replace(CONFIG, epochs=9))


def test_a_run_from_before_there_was_a_setting_continues_with_its_default(unfinished: Path) -> None:
    file = unfinished / run_folder.CONFIG
    settings = yaml.safe_load(file.read_text())
    del settings["accumulate"]
    file.write_text(yaml.safe_dump(settings))
    run_folder.check_free(unfinished, CONFIG)
    with pytest.raises(FileExistsError, match=r"other settings \(accumulate\)"):
        run_folder.check_free(unfinished, replace(CONFIG, accumulate=2))


def finished(folder: Path) -> Path:
    run_folder.write_config(folder, CONFIG)
    (folder / run_folder.MODEL).mkdir()
    for name in ("checkpoint.ckpt", "report.html", "model/model.json"):
        (folder / name).write_text("")
    (folder / run_folder.METRICS).write_text('{"validation": {}}')
    return folder


@pytest.mark.parametrize("name", ["metrics.json", "report.html", "model/model.json"])
def test_a_run_without_one_of_its_files_is_not_finished(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileExistsError, match="holds this run, finished"):
        run_folder.check_free(finished(tmp_path), CONFIG)
    (tmp_path / name).unlink()
    run_folder.check_free(tmp_path, CONFIG)


@pytest.mark.parametrize("content", ["", '{"validation": {"lo', "[]", "null"])
def test_half_written_metrics_are_none(tmp_path: Path, content: str) -> None:
    (finished(tmp_path) / run_folder.METRICS).write_text(content)
    run_folder.check_free(tmp_path, CONFIG)


def test_a_second_run_in_the_folder_is_told_who_is_in_it(tmp_path: Path) -> None:
    with (
        run_folder.claimed(tmp_path / "run", CONFIG),
        pytest.raises(InUseError, match=r"run' is in use by another run"),
        run_folder.claimed(tmp_path / "run", CONFIG),
    ):
        pass


def test_what_is_left_of_a_command_that_was_killed_at_once_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / run_folder.LOCK).write_text("")
    (tmp_path / ".config.yaml.123-abcd.finetune-tmp").write_text("")
    run_folder.check_free(tmp_path, CONFIG)


def test_a_claim_leaves_nothing_of_a_run_that_did_not_begin(tmp_path: Path) -> None:
    with run_folder.claimed(tmp_path / "run", CONFIG):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_may_have_a_class_called_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert run_folder.model_in(tmp_path) == tmp_path
    (tmp_path / "model" / "model.json").write_text("{}")
    assert run_folder.model_in(tmp_path) == tmp_path / "model"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("pretrained", "pretrained"),
        (None, None),
        ("a.pth", "/here/a.pth"),
        (["a.pth", None, "pretrained"], ["/here/a.pth", None, "pretrained"]),
        ({"resnet18": "a.pth"}, {"resnet18": "/here/a.pth"}),
    ],
)
def test_files_of_weights_are_found_from_any_folder(
    weights: list | dict | str | None, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "absolute", lambda path: Path("/here") / path)
    assert run_folder.resolved(TrainConfig(weights=weights)).weights == expected


def test_a_finished_run_in_a_folder_that_can_not_be_written_is_said_to_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("finetune.files.locks._acquire", refuse)
    folder = finished(tmp_path)
    with (
        pytest.raises(FileExistsError, match="holds this run, finished"),
        run_folder.claimed(folder, CONFIG),
    ):
        pass
