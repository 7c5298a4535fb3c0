"""`finetune predict` on a terminal."""

import shutil
from pathlib import Path

import pytest
import terminal

from finetune.cli import main


@pytest.fixture
def images(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine, one of which can't be read, in a folder whose path is short."""
    folder = tmp_path / "new"
    shutil.copytree(photos / "red", folder)
    (folder / "0.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return Path("new")


def shown(monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[str, list[str]]:
    """What is written, and what is to be seen of it when it is done."""
    monkeypatch.setattr(terminal, "COLUMNS", 140)  # the error has 110
    codes: list[int] = []
    command = ["predict", *map(str, words), "--batch-size", "2"]
    text = terminal.on_a_terminal(monkeypatch, lambda: codes.append(main(command)))
    assert codes == [1]
    return text, terminal.screen_after(text).lines


def test_rows_on_a_terminal_have_lines_of_their_own(
    run_folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, lines = shown(monkeypatch, run_folder, images)
    assert "\r" not in text.replace("\r\n", "")  # no bar
    assert len(lines) == 1 + 8
    assert lines.pop(0).startswith("finetune predict: error: new/0.jpg: ")
    assert all(line.startswith("new/00") and "%  " in line for line in lines)


def test_a_progress_bar_does_not_tear_lines_with_errors(
    run_folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, lines = shown(monkeypatch, run_folder, images, "--output", "rows.csv")
    assert "predicting" in text  # the bar
    assert len(lines) == 2
    assert lines[0].startswith("finetune predict: error: new/0.jpg: ")
    assert lines[1] == "9 images, 1 of them unreadable: rows.csv"


def test_a_missing_image_does_not_stop_the_others(
    run_folder: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run_folder), "gone.jpg", "new/001.jpg"]) == 1
    said = capsys.readouterr()
    assert "error: gone.jpg: there is no such file" in said.err
    assert said.out.startswith("new/001.jpg ")
