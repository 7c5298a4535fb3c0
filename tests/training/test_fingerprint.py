"""A checkpoint belongs to one run: what differs is named, and what may differ does not matter."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_learner, tiny_pairs, write_photos
from torch import nn
from torch.utils.data import DataLoader, Subset

from finetune import (
    Callback,
    CheckpointError,
    DataLoaders,
    ImageDataLoaders,
    Learner,
    SaveBest,
    vision_learner,
)
from finetune.files.locks import InUseError
from finetune.training import checkpoint as checkpoints
from finetune.training.events import EpochEnd

SMALL = {"image_size": 32, "batch_size": 4, "num_workers": 1}


def fold(indices: range, *, batch_size: int = 4, num_workers: int = 0) -> DataLoaders:
    pairs = tiny_pairs(48)
    train = DataLoader(
        Subset(pairs, indices), batch_size, shuffle=True, drop_last=True, num_workers=num_workers
    )
    return DataLoaders(train, DataLoader(pairs, 16), classes=["no", "yes"])


def dropout(rate: float) -> Learner:
    return tiny_learner(dropout=rate)


def sgd(**options: bool) -> object:
    return partial(torch.optim.SGD, lr=0.1, momentum=0.9, **options)


DIFFERENT = {
    "training examples": [
        lambda: tiny_learner(data=fold(range(32))),
        lambda: tiny_learner(data=fold(range(16, 48))),
    ],
    "training batch size was 4 and is 8": [
        lambda: tiny_learner(data=fold(range(32))),
        lambda: tiny_learner(data=fold(range(32), batch_size=8)),
    ],
    "layers of 0 in torch": [lambda: dropout(0.2), lambda: dropout(0.3)],
    "loss label_smoothing was 0.0 and is 0.1": [
        lambda: tiny_learner(loss=nn.CrossEntropyLoss()),
        lambda: tiny_learner(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    ],
    "loss was cross_entropy and is ": [
        tiny_learner,
        lambda: tiny_learner(loss=lambda outputs, targets: outputs.square().mean()),
    ],
    "weight_decay of 0 was 0.1 and is 0.2": [
        lambda: tiny_learner(weight_decay=0.1),
        lambda: tiny_learner(weight_decay=0.2),
    ],
    "nesterov of SGD was False and is True": [
        lambda: tiny_learner(optimizer=sgd()),
        lambda: tiny_learner(optimizer=sgd(nesterov=True)),
    ],
    "norm of 0 was eval and is train": [
        lambda: tiny_learner(norm="eval"),
        lambda: tiny_learner(norm="train"),
    ],
    "label_smoothing was 0.0 and is 0.1": [tiny_learner, lambda: tiny_learner(label_smoothing=0.1)],
    "ema was None and is 0.9": [tiny_learner, lambda: tiny_learner(ema=0.9)],
    "mixup was 0.0 and is 0.2": [tiny_learner, lambda: tiny_learner(mixup=0.2)],
    "accumulate was 1 and is 2": [tiny_learner, lambda: tiny_learner(accumulate=2)],
    "clip_norm was None and is 1.0": [tiny_learner, lambda: tiny_learner(clip_norm=1.0)],
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_a_finished_run_is_not_taken_for_another_one(tmp_path: Path, difference: str) -> None:
    first, second = DIFFERENT[difference]
    first().fit(1, checkpoint=tmp_path / "run.pt")
    learner = second()
    before = copy_of(learner.model.state_dict())
    with pytest.raises(CheckpointError, match=f"run.pt' is of another run. .*{difference}"):
        learner.fit(1, checkpoint=tmp_path / "run.pt")
    assert same_state(before, learner.model.state_dict())


@pytest.mark.parametrize("difference", ["weight_decay of 0 was 0.1 and is 0.2", "clip_norm was"])
def test_an_interrupted_run_does_not_continue_otherwise(tmp_path: Path, difference: str) -> None:
    first, second = next(v for k, v in DIFFERENT.items() if k.startswith(difference))
    stopped = first()
    stopped.fit(1, callbacks=[StopAt(3)])
    stopped.save(tmp_path / "run.pt")
    learner = second()
    with pytest.raises(CheckpointError, match=f"These differ: .*{difference}.*learner.load"):
        learner.fit(1, checkpoint=tmp_path / "run.pt")


def test_a_loaded_run_does_not_go_on_otherwise(tmp_path: Path) -> None:
    stopped = tiny_learner()
    stopped.fit(1, callbacks=[StopAt(3)])
    stopped.save(tmp_path / "run.pt")
    learner = tiny_learner(clip_norm=1.0)
    learner.load(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=r"These differ: clip_norm was None and is 1.0. So"):
        learner.resume()


def test_load_takes_the_weights_of_other_data(tmp_path: Path) -> None:
    first = tiny_learner(data=fold(range(32)))
    first.fit(1, checkpoint=tmp_path / "run.pt")
    second = tiny_learner(data=fold(range(16, 48)))
    second.load(tmp_path / "run.pt")
    assert same_state(first.model.state_dict(), second.model.state_dict())
    second.fit(1, checkpoint=tmp_path / "second.pt")


def test_workers_callbacks_and_progress_do_not_matter(tmp_path: Path) -> None:
    first = tiny_learner(data=fold(range(32)))
    first.fit(1, checkpoint=tmp_path / "run.pt")
    second = tiny_learner(
        data=fold(range(32), num_workers=1), progress=True, callbacks=[Callback()]
    )
    second.fit(1, checkpoint=tmp_path / "run.pt")
    assert same_state(first.model.state_dict(), second.model.state_dict())


def test_a_layer_may_be_replaced_before_or_after_the_learner_is_made(tmp_path: Path) -> None:
    def learner(*, before: bool) -> Learner:
        backbone = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        if before:
            backbone[0] = nn.Linear(4, 4)
        model = nn.Sequential(backbone, nn.Linear(4, 2))
        loss = nn.functional.cross_entropy
        made = Learner(fold(range(32)), model, loss=loss, progress=False, device="cpu")
        if not before:
            backbone[0] = nn.Linear(4, 4)
        return made

    learner(before=False).fit(1, checkpoint=tmp_path / "run.pt")
    learner(before=True).fit(1, checkpoint=tmp_path / "run.pt")


def learner_of(folder: Path, **options: object) -> Learner:
    data = ImageDataLoaders.from_folder(folder, **{**SMALL, **options})
    return vision_learner(data, "test_resnet", weights=None, progress=False, device="cpu")


def test_images_may_move_and_be_read_otherwise(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_class=4)
    learner_of(tmp_path / "photos").fit(1, checkpoint=tmp_path / "run.pt")
    (tmp_path / "photos").rename(tmp_path / "moved")
    moved = learner_of(tmp_path / "moved", num_workers=2, cache_folder=tmp_path / "cache")
    moved.fit(1, checkpoint=tmp_path / "run.pt")
    assert len(moved.history.epochs) == 1


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"batch_size": 6}, "batch size was 4 and is 6"),
        ({"augment": "light"}, "augmentation rotate was"),
        ({"image_size": 40}, "image size was 32 and is 40"),
        ({"seed": 1}, "seed was 0 and is 1; training images; "),
    ],
)
def test_other_images_are_another_run(tmp_path: Path, options: dict, difference: str) -> None:
    write_photos(tmp_path / "photos", per_class=4)
    learner_of(tmp_path / "photos").fit(1, checkpoint=tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=difference):
        learner_of(tmp_path / "photos", **options).fit(1, checkpoint=tmp_path / "run.pt")


def test_a_new_image_is_another_run(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_class=4)
    learner_of(tmp_path / "photos").fit(1, checkpoint=tmp_path / "run.pt")
    write_photos(tmp_path / "photos", per_class=5)
    with pytest.raises(CheckpointError, match="number of training images was 9 and is 12"):
        learner_of(tmp_path / "photos").fit(1, checkpoint=tmp_path / "run.pt")


def test_a_file_without_a_fingerprint_is_known_by_its_plan(tmp_path: Path) -> None:
    tiny_learner().fit(1, checkpoint=tmp_path / "run.pt")
    content = checkpoints.read(tmp_path / "run.pt")
    del content["run"]["fingerprint"]
    checkpoints.write(tmp_path / "run.pt", content)
    tiny_learner(clip_norm=1.0).fit(1, checkpoint=tmp_path / "run.pt")


# --- SaveBest


def test_the_best_epoch_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    tiny_learner(data=fold(range(32))).fit(1, callbacks=[SaveBest(tmp_path / "best.pt")])
    before = (tmp_path / "best.pt").read_bytes()
    with pytest.raises(CheckpointError, match=r"best.pt' is of another run. .* training"):
        tiny_learner(data=fold(range(16, 48))).fit(1, callbacks=[SaveBest(tmp_path / "best.pt")])
    with pytest.raises(CheckpointError, match=r"best.pt' belongs to another plan"):
        tiny_learner(data=fold(range(32))).fit(2, callbacks=[SaveBest(tmp_path / "best.pt")])
    assert (tmp_path / "best.pt").read_bytes() == before


def test_the_same_run_again_replaces_its_best_epoch(tmp_path: Path) -> None:
    for _ in range(2):
        tiny_learner().fit(1, callbacks=[SaveBest(tmp_path / "best.pt")])


def test_one_that_stays_for_all_fits_goes_on_in_the_next_plan(tmp_path: Path) -> None:
    learner = tiny_learner(callbacks=[SaveBest(tmp_path / "best.pt")])
    learner.fit(1)
    learner.fit(2)


# --- one run at a time


class FitElsewhere(Callback):
    """Runs another learner with the same files in the middle of a fit."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def on_epoch_end(self, event: EpochEnd) -> None:
        tiny_learner().fit(1, **self.options)


def test_two_runs_do_not_write_one_checkpoint(tmp_path: Path) -> None:
    other = FitElsewhere(checkpoint=tmp_path / "run.pt")
    with pytest.raises(InUseError, match=r"run.pt' is in use by another run"):
        tiny_learner().fit(1, checkpoint=tmp_path / "run.pt", callbacks=[other])
    assert list(tmp_path.glob(".*")) == []


def test_two_runs_do_not_write_one_best_epoch(tmp_path: Path) -> None:
    other = FitElsewhere(callbacks=[SaveBest(tmp_path / "best.pt")])
    with pytest.raises(InUseError, match=r"best.pt' is in use by another run"):
        tiny_learner().fit(1, callbacks=[SaveBest(tmp_path / "best.pt"), other])


def test_one_run_does_not_write_two_checkpoints_to_one_file(tmp_path: Path) -> None:
    first, second = SaveBest(tmp_path / "best.pt"), SaveBest(tmp_path / "best.pt", "train_loss")
    with pytest.raises(ValueError, match=r"best.pt' is to be written as two checkpoints"):
        tiny_learner().fit(1, callbacks=[first, second])


def test_two_names_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    best = SaveBest(tmp_path / "link" / "run.pt")
    with pytest.raises(ValueError, match=r"is to be written as two checkpoints; name another"):
        tiny_learner().fit(1, checkpoint=tmp_path / "runs" / "run.pt", callbacks=[best])


# --- folders that can't be written


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every lock fail as in a read-only folder, which the tests' user may write to."""

    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    return lambda: monkeypatch.setattr("finetune.files.locks._acquire", refuse)


def test_a_finished_run_is_read_where_nothing_can_be_written(
    tmp_path: Path, read_only: Callable[[], None]
) -> None:
    first, second = tiny_learner(), tiny_learner()
    first.fit(1, checkpoint=tmp_path / "run.pt", callbacks=[SaveBest(tmp_path / "best.pt")])
    read_only()
    second.fit(1, checkpoint=tmp_path / "run.pt", callbacks=[SaveBest(tmp_path / "best.pt")])
    assert same_state(first.model.state_dict(), second.model.state_dict())


def test_an_unfinished_run_is_not_continued_where_nothing_can_be_written(
    tmp_path: Path, read_only: Callable[[], None]
) -> None:
    stopped = tiny_learner()
    stopped.fit(1, callbacks=[StopAt(3)])
    stopped.save(tmp_path / "run.pt")
    content = checkpoints.read(tmp_path / "run.pt")
    content["run"]["ended"] = None
    checkpoints.write(tmp_path / "run.pt", content)
    read_only()
    for name in ("run.pt", "new.pt"):
        with pytest.raises(PermissionError, match="Permission denied"):
            tiny_learner().fit(1, checkpoint=tmp_path / name)


def test_the_checkpoint_itself_can_not_be_the_best_epoch(tmp_path: Path) -> None:
    best = SaveBest(tmp_path / "run.pt")
    with pytest.raises(
        ValueError, match=r"run.pt' is the file of SaveBest, too; .* name two files"
    ):
        tiny_learner().fit(1, checkpoint=tmp_path / "run.pt", callbacks=[best])
    assert not (tmp_path / "run.pt").exists()
