"""Other data on a living learner: progressive resizing, with everything else as before."""

from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_data, tiny_learner, tiny_pairs, write_photos
from torch.utils.data import DataLoader

from finetune import (
    Callback,
    CheckpointError,
    DataLoaders,
    ImageDataLoaders,
    Learner,
    load_learner,
    vision_learner,
)
from finetune.training.events import StepEnd


def data_of(photos: Path, image_size: int | None) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(photos, image_size=image_size, batch_size=8)


def learner_of(photos: Path, image_size: int = 32) -> Learner:
    return vision_learner(
        data_of(photos, image_size), "test_efficientnet", weights=None, progress=False
    )


class Sizes(Callback):
    """The sides of the images that a model is called with."""

    def __init__(self, learner: Learner) -> None:
        self.sides: set[int] = set()
        learner.model.register_forward_pre_hook(self._look)

    def _look(self, module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self.sides.add(inputs[0].shape[-1])


def test_a_learner_trains_on_small_images_and_then_on_larger_ones(photos: Path, tmp_path: Path):
    learner = learner_of(photos)
    learner.fit(1, 1e-2)
    state = copy_of(learner.optimizer.state_dict()["head.1.weight"])
    mean = learner.data.preprocessing.mean
    learner.data = data_of(photos, 48)
    assert learner.data.preprocessing.mean == mean
    assert same_state(state, learner.optimizer.state_dict()["head.1.weight"])
    sizes = Sizes(learner)
    learner.fit(1, 1e-2)
    assert sizes.sides == {48}
    assert [row.epoch for row in learner.history.epochs] == [0, 0]
    learner.export(tmp_path / "model")
    image = photos / "red" / "000.jpg"
    loaded = load_learner(tmp_path / "model")
    assert loaded.pipeline.preprocessing.image_size == 48
    assert loaded.predict(image).probability == pytest.approx(learner.predict(image).probability)


def test_results_are_those_of_the_new_data(photos: Path):
    learner = learner_of(photos)
    small = learner.predictions()
    learner.data = data_of(photos, 48)
    assert learner.predictions().probabilities.tolist() != small.probabilities.tolist()
    learner.data = data_of(photos, 32)
    assert learner.predictions().probabilities.tolist() == small.probabilities.tolist()


def test_without_a_size_images_come_in_the_size_of_before(photos: Path):
    learner = learner_of(photos)
    learner.data = data_of(photos, None)
    assert learner.data.preprocessing.image_size == 32


def test_a_calibration_for_other_images_is_given_up(photos: Path):
    learner = learner_of(photos)
    learner.calibrate()
    with pytest.warns(UserWarning, match=r"calibrate\(\) was for other data; its temperature is"):
        learner.data = data_of(photos, 48)
    assert learner.predictor().temperature == 1


def test_an_unfinished_run_is_not_resumed_with_other_data():
    learner = tiny_learner()
    learner.fit(2, callbacks=[StopAt(3)])
    before, other = learner.data, DataLoaders(
        DataLoader(tiny_pairs(32, seed=1), 4, shuffle=True, drop_last=True), classes=["no", "yes"]
    )  # fmt: skip
    learner.data = other
    with pytest.raises(CheckpointError, match="differ: training examples"):
        learner.resume()
    learner.data = before
    learner.resume()
    expected = tiny_learner()
    expected.fit(2)
    assert same_state(expected.model.state_dict(), learner.model.state_dict())


def test_a_fit_after_other_data_draws_as_the_next_epoch_would():
    learner, expected = tiny_learner(), tiny_learner()
    for one in (learner, expected):
        one.fit(1)
    learner.data = tiny_data()
    for one in (learner, expected):
        one.fit(1)
    assert same_state(expected.model.state_dict(), learner.model.state_dict())


def test_data_of_other_classes_are_refused(photos: Path, tmp_path: Path):
    learner = learner_of(photos)
    two = write_photos(tmp_path)
    (two / "red").rename(two / "rot")
    with pytest.raises(
        ValueError, match=r"\['blue', 'green', 'red'\], got \['blue', 'green', 'rot'\]"
    ):
        learner.data = data_of(two, 32)
    assert learner.data.classes == ("blue", "green", "red")


def test_data_of_another_task_are_refused():
    learner = tiny_learner()
    loader = DataLoader(tiny_pairs(), 4)
    with pytest.raises(ValueError, match="for task='single_label' as before, got 'regression'"):
        learner.data = DataLoaders(loader, classes=["no", "yes"], task="regression")


def test_data_are_data_loaders():
    with pytest.raises(TypeError, match=r"data must be .*DataLoaders.* got .*DataLoader"):
        tiny_learner().data = DataLoader(tiny_pairs(), 4)


def test_data_of_a_running_fit_are_not_changed():
    learner = tiny_learner()

    class Swaps(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            learner.data = tiny_data()

    with pytest.raises(RuntimeError, match="while a fit runs"):
        learner.fit(1, callbacks=[Swaps()])
