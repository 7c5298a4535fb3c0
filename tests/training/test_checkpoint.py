"""Checkpoint files: atomic, honest about what is wrong with them, and never executed."""

import json
import os
import pickle
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from processes import run_python
from support import copy_of, same, same_state, tiny_data, tiny_learner
from torch import nn

from finetune import CheckpointError, Learner
from finetune.training import checkpoint

LIMITS = (100, 10_000, 300_000)
"""Free bytes on the "disk": within the first buffer, within the tensor, near the end."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.pt"
    checkpoint.write(path, {"weights": torch.ones(3)})
    return path


def test_what_is_written_is_read_back(path: Path):
    assert torch.equal(checkpoint.read(path)["weights"], torch.ones(3))


def test_folders_are_made(tmp_path: Path):
    checkpoint.write(tmp_path / "a" / "b.pt", {"x": 1})
    assert checkpoint.read(tmp_path / "a" / "b.pt")["x"] == 1


def test_no_temporary_file_is_left(path: Path):
    assert os.listdir(path.parent) == ["run.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), ValueError("now")])
def test_a_failing_write_leaves_the_old_file(path: Path, monkeypatch, error: BaseException):
    def half(content: dict, stream) -> None:
        stream.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error), match="now"):
        checkpoint.write(path, {"weights": torch.zeros(3)})
    assert torch.equal(checkpoint.read(path)["weights"], torch.ones(3))
    assert os.listdir(path.parent) == ["run.pt"]


def test_the_file_is_on_the_disk_before_it_gets_its_name(path: Path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    checkpoint.write(path, {"x": 1})
    assert calls == ["fsync", "replace", "fsync"]  # the last one is the folder's


def test_a_folder_without_permission_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        checkpoint.write(tmp_path / "file" / "run.pt", {"x": 1})


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_told(path: Path, keep: float):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"run.pt' is truncated or no checkpoint"):
        checkpoint.read(path)


def test_a_truncated_file_leaves_the_learner_as_it_was(tmp_path: Path):
    learner = tiny_learner()
    learner.fit(1)
    learner.save(tmp_path / "run.pt")
    content = (tmp_path / "run.pt").read_bytes()
    (tmp_path / "run.pt").write_bytes(content[: len(content) // 2])
    before = copy_of(learner.model.state_dict())
    with pytest.raises(CheckpointError, match="truncated"):
        learner.load(tmp_path / "run.pt")
    assert same_state(before, learner.model.state_dict())


def test_a_flipped_bit_of_a_weight_is_told(path: Path):
    whole = path.read_bytes()
    place = whole.index(torch.ones(3).numpy().tobytes())
    path.write_bytes(whole[:place] + b"\x01" + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"run.pt' is truncated or no checkpoint: .*CRC-32"):
        checkpoint.read(path)


@pytest.mark.parametrize("version", [None, "1", 1.5])
def test_a_version_that_is_no_number_is_told(tmp_path: Path, version: object):
    torch.save({"format": checkpoint.FORMAT, "version": version}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=r"new.pt' has no format version, but"):
        checkpoint.read(tmp_path / "new.pt")


def test_a_file_that_may_not_be_read_is_a_permission_error(path: Path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*run.pt'"):
        checkpoint.read(path)


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint '.*none.pt'"):
        checkpoint.read(tmp_path / "none.pt")


def test_any_other_file_is_no_checkpoint(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("lr 1e-3 was good")
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        checkpoint.read(tmp_path / "notes.txt")


@pytest.mark.parametrize("content", [{"weights": torch.ones(3)}, [1, 2], torch.ones(3)])
def test_another_torch_file_is_no_checkpoint(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of finetune"):
        checkpoint.read(tmp_path / "model.pt")


def test_a_newer_version_is_told(tmp_path: Path):
    torch.save({"format": checkpoint.FORMAT, "version": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="version 99, this finetune reads up to 1; update"):
        checkpoint.read(tmp_path / "new.pt")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_a_malicious_file_is_not_executed(tmp_path: Path, kind: str):
    content = {
        "format": checkpoint.FORMAT,
        "version": 1,
        "model": Malicious(tmp_path / "executed"),
    }
    if kind == "pickle":
        (tmp_path / "run.pt").write_bytes(pickle.dumps(content))
    else:
        zipped = kind == "torch"
        torch.save(content, tmp_path / "run.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint"):
        checkpoint.read(tmp_path / "run.pt")
    assert not (tmp_path / "executed").exists()


def test_another_model_is_told_by_names_and_shapes(tmp_path: Path):
    own = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)).state_dict()
    saved = {**nn.Sequential(nn.Linear(4, 3)).state_dict(), "extra": torch.ones(1)}
    with pytest.raises(CheckpointError, match="of another model") as caught:
        checkpoint.check_fits(tmp_path, saved, own)
    for part in ("1.weight is missing", "extra is not in this model", "and 2 more differences"):
        assert part in str(caught.value)


def test_another_shape_is_told(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"w has shape \(2,\), here \(3,\)$"):
        checkpoint.check_fits(tmp_path, {"w": torch.ones(2)}, {"w": torch.ones(3)})


def test_loading_into_another_model_leaves_it_as_it_was(tmp_path: Path):
    tiny_learner(groups=3).save(tmp_path / "three.pt")
    learner = tiny_learner(groups=2)
    before = copy_of(learner.model.state_dict())
    with pytest.raises(CheckpointError, match="another model"):
        learner.load(tmp_path / "three.pt")
    assert same_state(before, learner.model.state_dict())


class Remembering(nn.Linear):
    """A layer with extra state, as torch calls what is no parameter and no buffer."""

    def __init__(self, memory: object) -> None:
        super().__init__(4, 2)
        self.memory = memory

    def get_extra_state(self) -> object:
        return self.memory

    def set_extra_state(self, state: object) -> None:
        self.memory = state


def remembering_learner(memory: object) -> Learner:
    model = nn.Sequential(nn.Linear(4, 4), Remembering(memory))
    loss = nn.functional.cross_entropy
    return Learner(tiny_data(), model, loss=loss, progress=False, device="cpu")


@pytest.mark.parametrize("memory", [{"seen": [1, 2], "name": "a"}, torch.ones(2), None])
def test_extra_state_of_a_module_is_saved_and_loaded(tmp_path: Path, memory: object):
    remembering_learner(memory).save(tmp_path / "run.pt")
    learner = remembering_learner(memory=None if memory is None else type(memory)())
    learner.load(tmp_path / "run.pt")
    assert same(learner.model[1].memory, memory)


def test_extra_state_that_only_unpickling_could_read_is_refused_when_it_is_saved(tmp_path: Path):
    learner = remembering_learner({"path": tmp_path})
    with pytest.raises(TypeError, match=r"but model.1._extra_state.path is a pathlib\..*Path"):
        learner.save(tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


@pytest.fixture(scope="module")
def deaths(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """What happened to `run.pt` in a process of its own, by folder name."""
    folder = tmp_path_factory.mktemp("deaths")
    done = run_python(Path(__file__), folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("free", LIMITS)
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(deaths, free: int):
    folder, outcomes = deaths
    assert outcomes[str(free)].startswith("OSError: can't write the checkpoint, an old one is int")
    assert torch.equal(checkpoint.read(folder / str(free) / "run.pt")["weights"], torch.ones(3))
    assert os.listdir(folder / str(free)) == ["run.pt"]


def test_a_killed_writer_leaves_the_old_file(deaths):
    folder, outcomes = deaths
    assert outcomes["killed"] == "exit -9"
    assert torch.equal(checkpoint.read(folder / "killed" / "run.pt")["weights"], torch.ones(3))


def _write_with_free_bytes(path: Path, free: int) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        checkpoint.write(path, {"weights": torch.zeros(100_000)})
    except OSError as error:
        return f"OSError: {error.strerror}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return "written"


def _write_and_die(path: Path) -> str:
    def half(content: dict, stream) -> None:
        stream.write(b"x" * 100_000)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        torch.save = half
        checkpoint.write(path, {"weights": torch.zeros(3)})
    return f"exit {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"


def _main(folder: Path) -> None:
    outcomes = {}
    for name in (*map(str, LIMITS), "killed"):
        path = folder / name / "run.pt"
        checkpoint.write(path, {"weights": torch.ones(3)})
        outcomes[name] = (
            _write_and_die(path) if name == "killed" else _write_with_free_bytes(path, int(name))
        )
    print(json.dumps(outcomes))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
