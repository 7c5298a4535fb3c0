"""Weights & Biases: what is in the files of runs that the library keeps offline."""

import json
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import Callback, Learner, Wandb
from finetune.training.events import StepEnd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all runs of this file are kept: wandb reads its variables once a process."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_CONSOLE", "off")
        import wandb

        yield folder
        wandb.teardown()


@pytest.fixture
def wandb(folder: Path) -> Iterator[Any]:
    import wandb

    yield wandb
    if wandb.run is not None:
        wandb.finish()


def records(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, in blocks of 32 KiB, behind a header of 7 bytes."""
    position = 7
    parts: list[bytes] = []
    while position + 7 <= len(log):
        left_in_block = 32_768 - position % 32_768
        if left_in_block < 7:  # too little for a header, so it is padding
            position += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", log[position : position + 7])
        parts.append(log[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts.clear()


class Stored:
    """What the files of a run hold, of all processes and fits that wrote to it."""

    def __init__(self, folder: Path, run_id: str | None) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        self.config: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []
        self.exit_codes: list[int] = []
        self.projects: set[str] = set()
        self.names: set[str] = set()
        files = sorted(folder.rglob(f"run-{run_id}.wandb"), key=os.path.getmtime)
        assert files
        # a process of the library's own writes them, and may not be done when `finish` returns
        deadline = time.monotonic() + 60
        for file in files:
            while True:
                stored = [Record.FromString(content) for content in records(file.read_bytes())]
                has_end = any(record.WhichOneof("record_type") == "exit" for record in stored)
                if has_end or time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            for record in stored:
                self._add(record)

    def _add(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {}
            for item in record.history.item:
                row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            self.history.append(row)
        elif kind == "config":
            for item in record.config.update:
                self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            self.exit_codes.append(record.exit.exit_code)
        elif kind == "run":
            self.projects.add(record.run.project)
            self.names.add(record.run.display_name)

    def points(self, name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in self.history if name in row]


def learner_with(callback: Wandb) -> Learner:
    """Five steps an epoch."""
    return tiny_learner(data=tiny_data(count=20), callbacks=[callback], metrics=["accuracy"])


def test_a_run_has_the_plan_and_the_metrics(wandb: Any, folder: Path) -> None:
    callback = Wandb("flowers", name="first", every=2)
    learner = learner_with(callback)
    learner.fine_tune(2, base_lr=1e-2)
    assert wandb.run is None
    stored = Stored(folder, callback.run_id)
    assert (stored.projects, stored.names) == ({"flowers"}, {"first"})
    plan = stored.config["plan"]
    assert plan["phases"] == ["frozen", "unfrozen"]
    assert plan["frozen"]["frozen_groups"] == 1
    assert plan["unfrozen"]["lr"] == pytest.approx({"0": 5e-5, "1": 5e-3})
    epochs, steps = learner.history.epochs, learner.history.steps
    losses = [(5 * i + 5, row.valid["loss"]) for i, row in enumerate(epochs)]
    assert stored.points("valid_loss") == losses
    assert [value for _, value in stored.points("train_loss")] == [row.train_loss for row in epochs]
    assert len(stored.points("valid_accuracy")) == 3
    expected = [(i + 1, row.lr[1]) for i, row in enumerate(steps) if row.step % 2 == 0]
    assert stored.points("lr/1") == expected
    assert stored.exit_codes == [0]


def test_a_second_fit_is_in_the_same_run(wandb: Any, folder: Path) -> None:
    callback = Wandb()
    learner = learner_with(callback)
    learner.fit(1)
    first = callback.run_id
    learner.fit(2)
    assert callback.run_id == first
    stored = Stored(folder, first)
    assert (stored.config["plan"]["epochs"], stored.config["plan 2"]["epochs"]) == (1, 2)
    assert [step for step, _ in stored.points("train_loss")] == [5, 10, 15]


def test_a_resumed_fit_goes_on_in_its_run_with_its_plan(
    wandb: Any, folder: Path, tmp_path: Path
) -> None:
    callback, again = Wandb(), Wandb()
    learner = learner_with(callback)
    learner.fine_tune(1, callbacks=[StopAt(7)])
    learner.save(tmp_path / "a.ckpt")
    other = learner_with(again)
    other.load(tmp_path / "a.ckpt")
    other.resume()
    assert again.run_id == callback.run_id
    stored = Stored(folder, again.run_id)
    assert "plan 2" not in stored.config
    assert [step for step, _ in stored.points("train_loss")] == [5, 10]


def test_a_run_that_is_active_is_used_and_stays_active(wandb: Any, folder: Path) -> None:
    callback = Wandb("not this one")
    with wandb.init(project="mine", config={"epochs": 7}) as mine:
        learner_with(callback).fit(1)
        assert wandb.run is mine
    stored = Stored(folder, callback.run_id)
    assert callback.run_id == mine.id
    assert stored.projects == {"mine"}
    assert stored.config["plan"]["epochs"] == 1


def test_a_run_says_how_it_ended(wandb: Any, folder: Path) -> None:
    class Interrupt(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    class Fail(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            raise OSError("the disk is full")

    callback = Wandb()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        learner_with(callback).fit(1, callbacks=[Interrupt()])
    assert Stored(folder, callback.run_id).exit_codes == [255]
    callback = Wandb()
    with pytest.raises(OSError, match="the disk is full"):
        learner_with(callback).fit(1, callbacks=[Fail()])
    assert Stored(folder, callback.run_id).exit_codes == [1]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'finetune-vision\[tracking\]'"):
        Wandb()


def test_a_number_of_steps_that_is_none() -> None:
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        Wandb(every=0)
