"""Whether a run may begin or go on in a folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.cli import run_folder
from finetune.config import TrainConfig

CONFIG = TrainConfig(data="photos")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    run_folder.write_config(tmp_path, CONFIG)
    (tmp_path / run_folder.CHECKPOINT).write_text("")
    return tmp_path


def test_a_run_continues_with_other_formats(unfinished: Path) -> None:
    run_folder.claim(unfinished, replace(CONFIG, formats="onnx"))
    with pytest.raises(FileExistsError, match=r"other settings \(epochs\)"):
        run_folder.claim(unfinished, replace(CONFIG, epochs=9))


def test_a_run_is_finished_only_once_its_metrics_are_written(unfinished: Path) -> None:
    (unfinished / run_folder.MODEL).mkdir()
    run_folder.claim(unfinished, CONFIG)
    (unfinished / run_folder.METRICS).write_text("{}")
    with pytest.raises(FileExistsError, match="holds this run, finished"):
        run_folder.claim(unfinished, CONFIG)
