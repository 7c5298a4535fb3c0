"""An exported folder takes its place whole, also where the folder itself can't be moved."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from finetune import export
from finetune.export import ModelDescription, placing
from finetune.files import locks
from finetune.files.locks import InUseError

FILES = ["model.json", "model.safetensors"]


def write(folder: Path, description: ModelDescription) -> None:
    export.write(folder, nn.Linear(2, 2), description, overwrite=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def classes_in(folder: Path) -> list[str]:
    return list(export.read_description(folder).classes[:1])


@pytest.fixture
def new(tiny_description: ModelDescription) -> ModelDescription:
    return replace(tiny_description, classes=("new", "b", "c"))


@pytest.fixture
def folder(tmp_path: Path, tiny_description: ModelDescription) -> Path:
    """With a model that has a graph, too."""
    write(tmp_path / "model", replace(tiny_description, classes=("old", "b", "c")))
    (tmp_path / "model" / "model.onnx").write_bytes(b"old")
    return tmp_path / "model"


@pytest.fixture
def mount(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as a mount point, which can't be moved or removed."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    refuse_rename(monkeypatch, folder)
    return folder


def refuse_rename(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a mount point: it does not move, and nothing takes its place."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if folder in (self, target):
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)


def fail_replacing(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """Once."""
    replace, failed = os.replace, []

    def failing(source: Path, to: Path) -> None:
        if to == target and not failed:
            failed.append(to)
            raise OSError("no space left")
        replace(source, to)

    monkeypatch.setattr(os, "replace", failing)


def test_a_link_to_a_folder_stays_a_link(folder: Path, new: ModelDescription) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    write(link, new)
    assert link.is_symlink()
    assert classes_in(folder) == ["new"]


def test_a_new_folder_that_does_not_arrive_leaves_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, new: ModelDescription
) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not (self / "model.onnx").exists():
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        write(folder, new)
    assert classes_in(folder) == ["old"]
    assert names_in(folder.parent) == ["model"]


def test_nothing_is_left_beside_a_replaced_folder(folder: Path, new: ModelDescription) -> None:
    write(folder, new)
    assert names_in(folder.parent) == ["model"]
    assert names_in(folder) == FILES


def test_a_folder_that_can_not_be_moved_gets_new_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, new: ModelDescription
) -> None:
    refuse_rename(monkeypatch, folder)
    write(folder, new)
    assert classes_in(folder) == ["new"]
    assert (names_in(folder.parent), names_in(folder)) == (["model"], FILES)


def test_an_empty_mount_point_is_filled(mount: Path, new: ModelDescription) -> None:
    for file in mount.iterdir():
        file.unlink()
    export.write(mount, nn.Linear(2, 2), new)
    assert names_in(mount) == FILES


def test_a_model_in_a_mount_point_is_replaced(mount: Path, new: ModelDescription) -> None:
    write(mount, new)
    assert classes_in(mount) == ["new"]
    assert names_in(mount) == FILES


def test_files_for_a_mount_point_are_made_in_it(mount: Path) -> None:
    assert placing.temporary_for(mount).parent == mount


def test_what_a_file_system_has_of_its_own_stays(mount: Path, new: ModelDescription) -> None:
    (mount / "lost+found").mkdir()
    write(mount, new)
    assert names_in(mount) == ["lost+found", *FILES]


def test_a_mount_point_with_other_files_stays(mount: Path, new: ModelDescription) -> None:
    (mount / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match=r"holds other files and stays: thesis\.txt"):
        write(mount, new)
    assert classes_in(mount) == ["old"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_arrive_leaves_the_old_ones(
    mount: Path, monkeypatch: pytest.MonkeyPatch, name: str, new: ModelDescription
) -> None:
    before = {file.name: file.read_bytes() for file in mount.iterdir()}
    fail_replacing(monkeypatch, mount / name)
    with pytest.raises(OSError, match="no space left"):
        write(mount, new)
    assert {file.name: file.read_bytes() for file in mount.iterdir()} == before


def test_a_file_that_does_not_arrive_leaves_an_empty_mount_point_empty(
    mount: Path, monkeypatch: pytest.MonkeyPatch, new: ModelDescription
) -> None:
    for file in mount.iterdir():
        file.unlink()
    fail_replacing(monkeypatch, mount / "model.json")
    with pytest.raises(OSError, match="no space left"):
        write(mount, new)
    assert names_in(mount) == []


def test_the_description_leaves_first_and_comes_last(
    mount: Path, monkeypatch: pytest.MonkeyPatch, new: ModelDescription
) -> None:
    replace, order = os.replace, []

    def recording(source: Path, target: Path) -> None:
        if mount in (source.parent, target.parent):
            order.append(source.name if source.parent == mount else f"new {source.name}")
        replace(source, target)

    monkeypatch.setattr(os, "replace", recording)
    write(mount, new)
    assert (order[0], order[-1]) == ("model.json", "new model.json")


# --- exports that were killed


KILLED = "0123abcd"


def test_the_next_export_removes_what_a_killed_one_left(
    folder: Path, new: ModelDescription
) -> None:
    (folder.parent / f".finetune.{KILLED}.model").mkdir()
    (folder.parent / f".finetune.old.{KILLED}.model").mkdir()
    (folder.parent / f".finetune.{KILLED}.another").mkdir()
    write(folder, new)
    assert names_in(folder.parent) == [f".finetune.{KILLED}.another", "model"]


def test_an_old_model_that_was_moved_away_comes_back_first(
    folder: Path, new: ModelDescription
) -> None:
    folder.rename(folder.parent / f".finetune.old.{KILLED}.model")
    with pytest.raises(FileExistsError, match="exists already"):
        export.write(folder, nn.Linear(2, 2), new)
    assert classes_in(folder) == ["old"]
    write(folder, new)
    assert names_in(folder.parent) == ["model"]


def test_old_files_that_were_moved_away_come_back_first(mount: Path, new: ModelDescription) -> None:
    killed = mount / f".finetune.{KILLED}"
    (killed / "old").mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (mount / name).rename(killed / "old" / name)
    (mount / "model.safetensors").write_text("new, and without a description")
    with pytest.raises(FileExistsError, match="exists already"):
        export.write(mount, nn.Linear(2, 2), new)
    assert classes_in(mount) == ["old"]
    export.read_weights(mount, nn.Linear(2, 2))


def test_two_exports_do_not_write_one_folder(folder: Path, new: ModelDescription) -> None:
    with (
        locks.held(placing.lock_for(folder), "it"),
        pytest.raises(InUseError, match=r"model' is in use by another run"),
    ):
        write(folder, new)
