"""Temporary folders go with their process; what a killed one leaves, goes with the next."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import FILES_ALONE

from finetune.files.temporary import TemporaryFolder

HAS_ONE = f"""
{FILES_ALONE}
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from finetune.files.temporary import TemporaryFolder

folder = TemporaryFolder("kind")
(folder.path / "file").write_text("content")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def other_process(place: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process with a temporary folder, and the folder."""
    command = [sys.executable, "-c", HAS_ONE, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield process, Path(process.stdout.readline().rstrip())


def test_it_is_there_as_long_as_its_object() -> None:
    folder = TemporaryFolder("kind")
    path = folder.path
    (path / "file").write_text("content")
    del folder
    assert not path.exists()


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    with other_process(tmp_path) as (_, path):
        assert (path / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with other_process(tmp_path) as (process, path):
        process.send_signal(signal.SIGKILL)
    assert path.exists()
    other = TemporaryFolder("other kind")
    assert path.exists()
    folder = TemporaryFolder("kind")
    assert sorted(tmp_path.iterdir()) == sorted([folder.path, other.path])


def test_those_of_living_processes_stay(tmp_path: Path) -> None:
    with other_process(tmp_path) as (_, path):
        first, second = TemporaryFolder("kind"), TemporaryFolder("kind")
        assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path, path])


def test_a_forked_process_does_not_take_it_along() -> None:
    folder = TemporaryFolder("kind")
    child = os.fork()
    if child == 0:
        del folder
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.exists()


def test_a_process_that_was_killed_before_it_locked_it_left_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "kind-abc").mkdir()
    (tmp_path / "kind-not-ours").mkdir()
    (tmp_path / "kind-not-ours" / "file").touch()
    folder = TemporaryFolder("kind")
    assert sorted(tmp_path.iterdir()) == sorted([folder.path, tmp_path / "kind-not-ours"])
