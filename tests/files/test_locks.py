"""One run at a time: a lock names its owner, and that of a dead one is free."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import FILES_ALONE

from finetune.files.locks import InUseError, held

HOLDS_IT = f"""
{FILES_ALONE}
import os, sys
from pathlib import Path
from finetune.files.locks import held

with held(Path(sys.argv[1]), "'run'"):
    if os.fork() == 0:  # as the workers of a data loader, which outlive a killed run
        sys.stdin.read()
        os._exit(0)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLDS_IT, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        yield process


def test_the_lock_of_another_process_names_it(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "lock") as other,
        pytest.raises(
            InUseError, match=f"'run' is in use by another run .process {other.pid} on .*, since 20"
        ),
        held(tmp_path / "lock", "'run'"),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with held(tmp_path / "lock", "'run'"):
            assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_it_is_free_again_and_gone_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path / "lock", "'run'"):
            assert (tmp_path / "lock").is_file()
    assert not os.listdir(tmp_path)


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / "lock", "'run'"):
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)


def test_a_process_does_not_take_its_own_lock_twice(tmp_path: Path) -> None:
    with (
        held(tmp_path / "lock", "'run'"),
        pytest.raises(InUseError, match="'run' is in use by another run in this process"),
        held(tmp_path / "lock", "'run'"),
    ):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="lock"), held(tmp_path / "lock", "'run'"):
        pass
    assert (tmp_path / "precious").read_text() == "old"
