"""The command as a whole: how it begins, how it is interrupted, and what reads its output."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from finetune.cli import main

ROOT = Path(finetune.__file__).parents[1]


def interrupted(name: str) -> None:
    raise KeyboardInterrupt


def in_a_process(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def test_ctrl_c_while_a_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["train", "photos"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues the run\n"


def test_ctrl_c_while_the_package_is_imported_shows_one_place_of_it(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise KeyboardInterrupt")
    done = in_a_process(f"PYTHONPATH={tmp_path}:{ROOT} {sys.executable} -m finetune --help")
    assert done.stderr.endswith("\nKeyboardInterrupt\n")
    assert done.stderr.count("/finetune/") == 1


def test_the_bare_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr() == (help_text, "")
    assert "finetune train photos/" in help_text


def test_the_package_is_the_command_and_a_reader_may_leave_early() -> None:
    done = in_a_process(f"{sys.executable} -m finetune --help | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_behind_two_dashes_there_are_files_only(
    run_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("--help", "-a.jpg"):
        (tmp_path / name).write_bytes((photos / "red" / "000.jpg").read_bytes())
    assert main(["predict", str(run_folder), "--", "--help", "-a.jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["--help", "-a.jpg"]


def test_a_name_that_is_no_utf_8_is_printed(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    (tmp_path / name).write_bytes((photos / "red" / "000.jpg").read_bytes())
    assert main(["predict", str(run_folder), str(tmp_path)]) == 0
    assert "caf\\udce9.jpg " in capsys.readouterr().out


def test_a_command_to_copy_has_its_path_in_quotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "my table.csv"
    table.write_text("image,label\n")
    assert main(["inspect", str(table)]) == 0
    assert f"finetune train --csv '{table}' finds" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be a whole number of at least 1, got 0"),
        (["--output", "rows.txt"], "--output rows.txt must end in .csv or .jsonl"),
    ],
)
def test_options_are_checked_before_anything_is_read(
    command: str, option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "no-such-model", "no-such-image.jpg", *option]) == 1
    assert message in capsys.readouterr().err
