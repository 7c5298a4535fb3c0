"""Exact resume: 10 steps = 5 steps + save + new process + load + 5 steps, bit for bit.

The file is also the script that runs in the new process; it forks one child for each death.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run_python
from support import (
    StopAt,
    copy_of,
    same,
    same_state,
    tiny_data,
    tiny_learner,
    tiny_model,
    write_photos,
)
from torch import nn

from finetune import (
    Callback,
    CheckpointError,
    EarlyStopping,
    ImageDataLoaders,
    Learner,
    SaveBest,
    Stop,
)
from finetune.training import checkpoint, trainer
from finetune.training.events import EpochEnd, Precompute, Save, StepEnd
from finetune.training.loop import Loop
from finetune.training.origin import Origin
from finetune.vision import vision_learner

STOPS = {
    # inside the frozen epoch, at the freeze boundary, inside an unfrozen epoch, at an epoch's end
    "adamw": (3, 8, 13, 16),
    "accumulating": (2, 3, 5, 6),
    # behind a probe, which takes no steps
    "images": (1, 2, 4, 6),
    # in each of three frozen epochs of three steps, which go round two views, and behind them
    "views": (2, 4, 8, 9, 11),
    # with what draws from the generators, and with averaged weights
    "averaged": (3, 8, 13, 16),
    "mixed": (3, 16, 18, 22),
    "bf16": (3, 13),
}
SAVED = [(kind, stop) for kind, stops in STOPS.items() for stop in stops]
DEATHS = {
    ("adamw", 5): signal.SIGKILL,
    ("adamw", 9): signal.SIGKILL,
    ("accumulating", 5): signal.SIGKILL,
    ("images", 6): signal.SIGKILL,
    ("averaged", 5): signal.SIGKILL,
    ("averaged", 9): signal.SIGINT,
    ("mixed", 19): signal.SIGTERM,
    ("adamw", 3): signal.SIGINT,
    ("accumulating", 7): signal.SIGINT,
    ("adamw", 11): signal.SIGTERM,
    ("adamw", 8): signal.SIGTERM,
    ("views", 3): signal.SIGKILL,
    ("views", 5): signal.SIGKILL,
    ("views", 8): signal.SIGTERM,
    ("bf16", 10): signal.SIGKILL,
}
PRECOMPUTING_DEATHS = {
    # 74 images are 4 chunks a view: in the first view, before and in the second one
    ("views", 2): signal.SIGKILL,
    ("views", 4): signal.SIGKILL,
    ("views", 6): signal.SIGKILL,
    ("views", 7): signal.SIGKILL,
    ("views", 5): signal.SIGINT,
    ("views", 3): signal.SIGTERM,
}
EXIT_CODES = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}  # as a shell says


def new_learner(kind: str, folder: Path) -> Learner:
    """The same learner in every process, whatever its machine's precision."""
    own = {"device": "cpu", "precision": "bf16" if kind == "bf16" else "fp32"}
    if kind in ("images", "views", "mixed"):
        name, size = ("many", 24) if kind == "views" else ("photos", 4)
        mixed = {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "ema": 0.9, "head": "mlp"}
        data = ImageDataLoaders.from_folder(
            folder / name, valid_fraction=0.15, image_size=32, batch_size=size
        )
        name = "test_efficientnet.r160_in1k"
        options = own | (mixed if kind == "mixed" else {})
        return vision_learner(data, name, weights=None, progress=False, **options)
    if kind == "averaged":
        return tiny_learner(groups=3, metrics=["accuracy"], ema=0.9, mixup=0.4, **own)
    if kind in ("adamw", "bf16"):
        return tiny_learner(groups=3, metrics=["accuracy"], **own)
    sgd = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    return tiny_learner(groups=3, optimizer=sgd, accumulate=3, clip_norm=0.1, **own)


def tune(learner: Learner, kind: str = "", **options: object) -> None:
    views = {"freeze_epochs": 3, "freeze_views": 2} if kind == "views" else {}
    # the others leave the earlier half of the body frozen, and those with images keep its outputs
    unfreeze = "all" if kind in ("adamw", "averaged") else None
    learner.fine_tune(2, base_lr=1e-2, unfreeze=unfreeze, **views, **options)


def outcome(learner: Learner) -> dict:
    """Everything that training has made, but for the seconds it took."""
    content = learner.trainer.state_dict()
    for row in content["callbacks"]["History"]["epochs"]:
        row["seconds"] = 0.0
    names = ("model", "optimizer", "groups", "frozen", "next_epoch")
    return {**{n: content[n] for n in names}, "history": content["callbacks"]["History"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_photos(folder / "photos", per_class=7)
    write_photos(folder / "many", per_class=30)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, dict]:
    results = {}
    for kind in STOPS:
        learner = new_learner(kind, folder)
        tune(learner, kind)
        results[kind] = outcome(learner)
    return results


@pytest.fixture(scope="module")
def exit_codes(folder: Path) -> dict[str, int]:
    """Runs that end early here or there, all the rest of them in a process of its own."""
    for kind, stop in SAVED:
        learner = new_learner(kind, folder)
        tune(learner, kind, callbacks=[StopAt(stop)])
        learner.save(folder / f"{kind}-{stop}.pt")
    done = run_python(Path(__file__), folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "stop"), SAVED)
def test_save_new_process_load_and_resume(kind, stop, folder, uninterrupted, exit_codes):
    resumed = torch.load(folder / f"{kind}-{stop}-resumed.pt", weights_only=True)
    assert same(resumed, uninterrupted[kind])


@pytest.mark.parametrize(("kind", "stop"), DEATHS)
def test_the_same_call_continues_a_killed_run(kind, stop, folder, uninterrupted, exit_codes):
    name = f"{kind}-{stop}-died"
    number = DEATHS[kind, stop]
    assert exit_codes[name] == EXIT_CODES[number]
    learner = new_learner(kind, folder)
    before = checkpoint.read(folder / f"{name}.pt")
    steps_done = len(before["callbacks"]["History"]["steps"]["step"])
    # SIGKILL strikes before the step's own checkpoint, the other signals wait for it
    assert steps_done == (stop - 1 if number == signal.SIGKILL else stop)
    tune(learner, kind, checkpoint=folder / f"{name}.pt")
    assert same(outcome(learner), uninterrupted[kind])
    assert not list(folder.glob(f".{name}*")), "a temporary file was left behind"


@pytest.mark.parametrize(("kind", "count"), PRECOMPUTING_DEATHS)
def test_the_same_call_continues_a_run_that_died_while_precomputing(
    kind, count, folder, uninterrupted, exit_codes
):
    name = f"{kind}-{count}-precomputing"
    number = PRECOMPUTING_DEATHS[kind, count]
    assert exit_codes[name] == EXIT_CODES[number]
    path = folder / f"{name}.pt"
    # the first epoch's end, or the signal, has written a file; nothing else was done before
    assert path.exists() == (count > 4 or number != signal.SIGKILL)
    done = checkpoint.read(path)["run"]["epoch"] if path.exists() else 0
    assert done == (count > 4)
    learner = new_learner(kind, folder)
    tune(learner, kind, checkpoint=path)
    assert same(outcome(learner), uninterrupted[kind])


def test_a_stop_within_this_process_resumes_exactly(folder, uninterrupted):
    learner = new_learner("adamw", folder)
    tune(learner, "adamw", callbacks=[StopAt(3)])
    learner.resume(callbacks=[StopAt(9)])
    learner.resume()
    assert same(outcome(learner), uninterrupted["adamw"])


def test_resume_takes_over_the_checkpoint_file(tmp_path: Path):
    learner = tiny_learner()
    tune(learner, callbacks=[StopAt(3)])
    learner.resume(checkpoint=tmp_path / "run.pt")
    assert checkpoint.read(tmp_path / "run.pt")["run"]["ended"] == "finished"


def test_without_an_unfinished_run_there_is_nothing_to_resume(tmp_path: Path):
    learner = tiny_learner()
    with pytest.raises(RuntimeError, match="no unfinished run"):
        learner.resume()
    learner.fit(1)
    with pytest.raises(RuntimeError, match="no unfinished run"):
        learner.resume()
    learner.save(tmp_path / "run.pt")
    learner.load(tmp_path / "run.pt")
    with pytest.raises(RuntimeError, match="no unfinished run"):
        learner.resume()


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path, capsys):
    first = tiny_learner()
    tune(first, checkpoint=tmp_path / "run.pt")
    second = tiny_learner(progress=True)
    tune(second, checkpoint=tmp_path / "run.pt")
    assert "its weights are loaded, nothing is left to do" in capsys.readouterr().out
    assert same(outcome(first), outcome(second))


def test_a_run_that_a_callback_stopped_is_not_started_again(tmp_path: Path):
    tune(tiny_learner(), checkpoint=tmp_path / "run.pt", callbacks=[StopAt(3)])
    learner = tiny_learner()
    tune(learner, checkpoint=tmp_path / "run.pt")
    assert len(learner.history.steps) == 3


def test_a_fit_after_a_resumed_one_uses_new_shuffles(tmp_path: Path):
    def twice(learner: Learner) -> dict:
        tune(learner)
        return outcome(learner)

    whole = tiny_learner()
    tune(whole)
    parted = tiny_learner()
    tune(parted, callbacks=[StopAt(5)])
    parted.save(tmp_path / "run.pt")
    parted = tiny_learner()
    parted.load(tmp_path / "run.pt")
    parted.resume()
    assert same(twice(parted), twice(whole))


class StopAfterEpochs(Callback):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch_end(self, event: EpochEnd) -> Stop | None:
        self.left -= 1
        return Stop("pause") if self.left == 0 else None


def test_a_run_that_lacks_its_last_validation_ends_with_the_last_rates(tmp_path: Path):
    whole, parted = tiny_learner(), tiny_learner()
    tune(whole)
    tune(parted, callbacks=[StopAt(24)])
    parted.save(tmp_path / "run.pt")
    parted = tiny_learner()
    parted.load(tmp_path / "run.pt")
    parted.resume()
    assert same(outcome(parted), outcome(whole))


def test_the_peaks_of_the_last_phase_are_saved(tmp_path: Path):
    first, second = tiny_learner(), tiny_learner()
    tune(first)
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    assert [group.peaks for group in second.layer_groups] == [
        group.peaks for group in first.layer_groups
    ]
    assert str(second.layer_groups) == str(first.layer_groups)


def test_early_stopping_goes_on_counting(tmp_path: Path):
    learner = tiny_learner()
    patience = partial(EarlyStopping, patience=3, min_delta=10.0)
    learner.fit(9, callbacks=[patience(), StopAfterEpochs(2)])
    learner.save(tmp_path / "run.pt")
    learner = tiny_learner()
    learner.load(tmp_path / "run.pt")
    learner.resume(callbacks=[patience()])
    assert len(learner.history.epochs) == 4  # the first is the best, three are no better


def test_save_best_remembers_the_best(tmp_path: Path):
    learner = tiny_learner()
    best = partial(SaveBest, tmp_path / "best.pt", min_delta=10.0)
    learner.fit(3, callbacks=[best(), StopAfterEpochs(1)])
    learner.save(tmp_path / "run.pt")
    (tmp_path / "best.pt").unlink()
    learner = tiny_learner()
    learner.load(tmp_path / "run.pt")
    learner.resume(callbacks=[best()])
    assert not (tmp_path / "best.pt").exists()


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path):
    tiny_learner().fit(1, checkpoint=tmp_path / "run.pt")
    learner = tiny_learner()
    before = copy_of(learner.model.state_dict())
    with pytest.raises(CheckpointError, match=r"belongs to another plan; repeat .*, or remove"):
        tune(learner, checkpoint=tmp_path / "run.pt")
    assert same_state(before, learner.model.state_dict())


def test_a_checkpoint_without_a_run_is_refused(tmp_path: Path):
    tiny_learner().save(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="belongs to another plan"):
        tiny_learner().fit(1, checkpoint=tmp_path / "run.pt")


def with_named_groups(model: nn.Module) -> list[list[nn.Module]]:
    return [[model[0]], [model[1]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": tiny_data(seed=1)}, "made with seed 0, here it is 1"),
        (
            {"optimizer": torch.optim.SGD},
            r"made with optimizer \['AdamW'.*, here it is \['SGD'",
        ),
        ({"split": with_named_groups}, "made with layer groups .*, here it is"),
    ],
)
def test_another_setup_is_refused_and_nothing_changes(tmp_path: Path, options, message):
    other = tiny_learner()
    tune(other)
    other.save(tmp_path / "run.pt")
    learner = tiny_learner(**options)
    learner.fit(1, callbacks=[StopAt(3)])
    before = outcome(learner)
    before["model"] = copy_of(before["model"])
    with pytest.raises(CheckpointError, match=message):
        learner.load(tmp_path / "run.pt")
    assert same(before, outcome(learner))
    learner.resume()  # its own run is still there
    assert len(learner.history.steps) == 8


@pytest.mark.parametrize(
    "options", [{"data": tiny_data(batch_size=8)}, {"accumulate": 2}], ids=["batches", "accumulate"]
)
def test_another_number_of_steps_is_refused(tmp_path: Path, options: dict):
    stopped = tiny_learner()
    tune(stopped, callbacks=[StopAt(3)])
    stopped.save(tmp_path / "run.pt")
    learner = tiny_learner(**options)
    learner.load(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"(size was 4 and is 8|accumulate was 1 and is 2)"):
        learner.resume()


def test_a_refused_checkpoint_leaves_the_learner_as_it_was(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(trainer, "Loop", partial(Loop, checkpoint_seconds=-1.0))
    first = tiny_learner(callbacks=[Raising(at=5)])
    with pytest.raises(RuntimeError, match="at step 5"):
        tune(first, checkpoint=tmp_path / "run.pt")
    learner = tiny_learner(data=tiny_data(batch_size=8))
    before = outcome(learner)
    before["model"] = copy_of(before["model"])
    with pytest.raises(CheckpointError, match="training batch size was 4 and is 8"):
        tune(learner, checkpoint=tmp_path / "run.pt")
    assert same(before, outcome(learner))


class Raising(Callback):
    def __init__(self, at: int) -> None:
        self.left = at

    def on_step_end(self, event: StepEnd) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError(f"at step {event.step + 1}")


def test_a_run_goes_on_after_an_error(folder, uninterrupted):
    learner = new_learner("adamw", folder)
    with pytest.raises(RuntimeError, match="at step 5"):
        tune(learner, "adamw", callbacks=[Raising(at=5)])
    learner.resume()
    assert same(outcome(learner), uninterrupted["adamw"])


class SavesEverywhere(Callback):
    """Saves the run at each of its events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def _save(self, event: object) -> Save:
        self.count += 1
        return Save(self.folder / f"{self.count:02d} {type(event).__name__}")

    on_phase_start = on_epoch_start = on_step_end = _save

    def on_epoch_end(self, event: EpochEnd) -> Save | None:
        is_last = event.phase != "frozen" and event.epoch == 1
        return None if is_last else self._save(event)


@pytest.mark.parametrize("unfreeze", ["all", None])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_wherever_a_run_is_cut_off_it_ends_as_if_it_had_not_been(
    tmp_path: Path, optimizer: str, unfreeze: str | None
):
    factory = partial(torch.optim.SGD, momentum=0.9) if optimizer == "sgd" else torch.optim.AdamW

    def new() -> Learner:
        return tiny_learner(
            3, data=tiny_data(12, 4), ema=0.9, metrics=["accuracy"], optimizer=factory
        )

    whole = new()
    saves = SavesEverywhere(tmp_path)
    whole.fine_tune(2, 1e-2, freeze_epochs=1, unfreeze=unfreeze, callbacks=[saves])
    expected = outcome(whole)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 16
    for file in files:
        learner = new()
        learner.load(file)
        learner.resume()
        assert same(outcome(learner), expected), file.name


def test_a_fit_that_cannot_begin_leaves_the_unfinished_run(tmp_path: Path, monkeypatch):
    learner, expected = tiny_learner(), tiny_learner()
    tune(expected)
    tune(learner, callbacks=[StopAt(3)])
    run = learner.trainer.run

    def no_memory(origin: object) -> None:
        raise MemoryError("for a copy of the weights")

    with monkeypatch.context() as patch:
        patch.setattr(Origin, "keep", no_memory)
        with pytest.raises(MemoryError):
            learner.fit(1)
    assert learner.trainer.run is run
    learner.resume()
    assert same(outcome(learner), outcome(expected))


def test_a_checkpoint_has_everything_that_matters(tmp_path: Path):
    learner = tiny_learner()
    learner.save(tmp_path / "run.pt")
    model = tiny_model(seed=9)
    assert not same_state(model.state_dict(), learner.model.state_dict())
    content = checkpoint.read(tmp_path / "run.pt")
    model.load_state_dict(content["model"])  # any torch program can take the weights out
    assert same_state(model.state_dict(), learner.model.state_dict())
    assert content["versions"]["torch"] == torch.__version__


# --- what runs in the new process


class DieAt(Callback):
    def __init__(self, steps: int, number: int) -> None:
        self.left, self.number = steps, number

    def on_step_end(self, event: StepEnd) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class DiePrecomputing(DieAt):
    def on_step_end(self, event: StepEnd) -> None:
        return None

    def on_precompute(self, event: Precompute) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def _exit_code(kind: str, path: Path, death: DieAt, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 0
        try:
            tune(new_learner(kind, folder), kind, checkpoint=path, callbacks=[death])
        except KeyboardInterrupt:
            code = 130
        except SystemExit as ending:
            code = ending.code
        # the interpreter would take seconds to free what the fork shares with its parent
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _main(folder: Path) -> None:
    torch.set_num_threads(1)  # as in conftest
    new_learner("adamw", folder)  # imports what takes long once, not in every child
    trainer.Loop = partial(Loop, checkpoint_seconds=-1.0)  # a checkpoint after every step
    deaths = {f"{k}-{s}-died": (k, DieAt(s, number)) for (k, s), number in DEATHS.items()}
    for (kind, count), number in PRECOMPUTING_DEATHS.items():
        deaths[f"{kind}-{count}-precomputing"] = kind, DiePrecomputing(count, number)
    codes = {
        name: _exit_code(kind, folder / f"{name}.pt", death, folder)
        for name, (kind, death) in deaths.items()
    }
    trainer.Loop = Loop
    for kind, stop in SAVED:
        learner = new_learner(kind, folder)
        learner.load(folder / f"{kind}-{stop}.pt")
        learner.resume()
        torch.save(outcome(learner), folder / f"{kind}-{stop}-resumed.pt")
    print(json.dumps(codes))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))


def test_a_loaded_run_that_is_saved_again_is_still_unfinished(tmp_path):
    learner = tiny_learner()
    learner.fit(2, 1e-3, callbacks=[StopAt(3)])
    learner.save(tmp_path / "a.ckpt")
    other = tiny_learner()
    other.load(tmp_path / "a.ckpt")
    other.save(tmp_path / "b.ckpt")
    third = tiny_learner()
    third.load(tmp_path / "b.ckpt")
    third.resume()
    assert len(third.history.steps) == 16


def test_a_numpy_rate_does_not_spoil_the_checkpoint(tmp_path):
    learner = tiny_learner()
    learner.fine_tune(1, base_lr=np.float64(1e-3), checkpoint=tmp_path / "a.ckpt")
    tiny_learner().load(tmp_path / "a.ckpt")


def test_a_callback_whose_state_could_not_be_read_again_is_named(tmp_path):
    class Numpy(Callback):
        def state_dict(self):
            return {"best": np.float64(1)}

    learner = tiny_learner(callbacks=[Numpy()])
    with pytest.raises(TypeError, match=r"callbacks\.Numpy\.best is a numpy\.float64"):
        learner.save(tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_precision_that_was_asked_for_is_kept_on_loading(tmp_path):
    tiny_learner(precision="bf16").save(tmp_path / "a.ckpt")
    asked, automatic = tiny_learner(precision="fp32"), tiny_learner()
    asked.load(tmp_path / "a.ckpt")
    automatic.load(tmp_path / "a.ckpt")
    assert asked.runtime.precision == "fp32"
    assert automatic.runtime.precision == "bf16"
