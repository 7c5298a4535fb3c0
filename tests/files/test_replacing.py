"""A file is replaced whole, or stays as it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import FILES_ALONE

from finetune.files.replacing import replacing, replacing_text, write_bytes, write_text

DIES_WHILE_WRITING = f"""
{FILES_ALONE}
import os, signal, sys
from pathlib import Path
from finetune.files.replacing import replacing

with replacing(Path(sys.argv[1])) as stream:
    stream.write(b"half of it")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> None:
    command = [sys.executable, "-c", DIES_WHILE_WRITING, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_text(tmp_path / "file.txt", "old")
    return tmp_path / "file.txt"


def test_the_new_content_takes_the_place_of_the_old(path: Path) -> None:
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file.txt", "Käse\n")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "Käse\n".encode()


def test_inside_the_block_the_old_content_is_still_there(path: Path) -> None:
    with replacing(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_text() == "old"


def write_half_and_fail(path: Path) -> None:
    with replacing(path) as stream:
        stream.write(b"half of it")
        raise ZeroDivisionError("now")


def test_an_error_leaves_the_old_content_and_nothing_else(path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="now"):
        write_half_and_fail(path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.txt"]


def write_and_press_ctrl_c(path: Path) -> None:
    with replacing(path) as stream:
        stream.write(b"first ")
        os.kill(os.getpid(), signal.SIGINT)
        stream.write(b"second")


def test_an_interruption_waits_until_the_file_is_whole(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_and_press_ctrl_c(path)
    assert path.read_text() == "first second"


def test_a_link_in_its_place_is_not_followed(path: Path) -> None:
    link = path.with_name("link.txt")
    link.symlink_to(path)
    write_text(link, "new")
    assert (path.read_text(), link.read_text()) == ("old", "new")


def test_the_next_write_removes_what_a_killed_one_left(path: Path) -> None:
    killed_while_writing(path)
    assert path.read_text() == "old"
    assert len(os.listdir(path.parent)) == 2
    write_text(path, "new")
    assert os.listdir(path.parent) == ["file.txt"]


def test_what_a_killed_write_left_of_another_file_stays(path: Path) -> None:
    killed_while_writing(path.with_name("other.txt"))
    write_text(path, "new")
    assert len(os.listdir(path.parent)) == 2


def test_two_writers_of_one_file_do_not_remove_each_other(path: Path) -> None:
    with replacing(path) as first:
        write_text(path, "second")
        first.write(b"first")
    assert path.read_text() == "first"


def test_a_living_writer_of_another_process_keeps_its_file(path: Path) -> None:
    waits = DIES_WHILE_WRITING.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); sys.stdin.readline()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", waits, str(path)], **pipes) as writer:
        writer.stdout.readline()
        write_text(path, "new")
        writer.communicate("\n")
    assert writer.returncode == 0
    assert path.read_text() == "half of it"


def test_a_long_name_has_room_for_its_temporary_file(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 250), "new")
    assert os.listdir(tmp_path) == ["n" * 250]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]


def test_an_error_names_the_file_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"can't write the log, an old one is intact: .*folder'$"):
        write_text(tmp_path / "folder", "new", "the log")


def test_text_that_is_no_utf_8_may_be_escaped(tmp_path: Path) -> None:
    with replacing_text(tmp_path / "names", errors="backslashreplace") as stream:
        stream.write("\udc80")
    assert (tmp_path / "names").read_text() == "\\udc80"
