"""Storage: parts of files on a disk and elsewhere, and what says that a file is another one."""

import os
import sys
from pathlib import Path

import fsspec
import pytest

from finetune.files.storage import State, is_remote, storage_of


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = str(tmp_path / "file") if request.param == "disk" else "memory://test_storage/file"
    write(path, b"0123456789")
    return path


def write(path: str, content: bytes) -> None:
    with fsspec.open(path, "wb") as stream:
        stream.write(content)


def test_a_part_is_read(path: str) -> None:
    storage = storage_of(path)
    assert storage.read(path, 3, 4, storage.state(path)) == b"3456"
    with storage.open(path) as stream:
        stream.seek(8)
        assert stream.read() == b"89"


def test_the_state_is_another_one_after_a_change_of_the_same_size(path: str) -> None:
    storage = storage_of(path)
    state = storage.state(path)
    assert (state.size, storage.state(path)) == (10, state)
    write(path, b"abcdefghij")
    if not is_remote(path):
        os.utime(path, ns=(0, state.version + 1))  # whatever the clock of the file system counts
    assert storage.state(path).size == 10
    assert storage.state(path).version != state.version


def test_a_file_that_ends_before_is_an_error(path: str) -> None:
    storage = storage_of(path)
    with pytest.raises(ValueError, match=r"2 bytes came in place of 5; is the file whole\?"):
        storage.read(path, 8, 5, storage.state(path))


def test_a_file_of_the_disk_that_has_changed_is_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    write(path, b"0123")
    with pytest.raises(ValueError, match="the file has changed since it was listed"):
        storage_of(path).read(path, 0, 2, State(4, 1))


def test_a_file_that_is_not_there_is_said_to_be(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage_of(path).state(f"{path}-not")


def test_addresses_are_texts_with_a_scheme() -> None:
    assert is_remote("https://example.org/a.tar")
    assert not is_remote("shards/a.tar")
    assert not is_remote(Path("https://example.org/a.tar"))


def test_without_fsspec_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'finetune-vision\[remote\]'"):
        storage_of("https://example.org/a.tar").state("https://example.org/a.tar")


def test_files_are_found_by_a_star(path: str) -> None:
    folder, _, _ = path.rpartition("/")
    storage = storage_of(path)
    for name in ("a1.tar", "a2.tar", "b.tar"):
        write(f"{folder}/{name}", name.encode())
    files = sorted(storage.files(f"{folder}/a*.tar"))
    contents = [storage.read(file, 0, 6, storage.state(file)) for file in files]
    assert contents == [b"a1.tar", b"a2.tar"]
    assert storage.files(f"{folder}/none*") == []


def test_on_a_disk_only_the_star_has_a_meaning(tmp_path: Path) -> None:
    for name in ("a[1].tar", "a[2].tar", "a1.tar"):
        write(str(tmp_path / name), b"")
    (tmp_path / "a[folder].tar").mkdir()
    pattern = str(tmp_path / "a[*.tar")
    files = sorted(storage_of(pattern).files(pattern))
    assert files == [str(tmp_path / "a[1].tar"), str(tmp_path / "a[2].tar")]
