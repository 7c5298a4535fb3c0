"""What the library makes inside of a caller's modes of torch is what it makes outside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from support import StopAt, same_state, tiny_data, tiny_learner, tiny_model
from torch import nn

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta device": lambda: torch.device("meta"),
}
in_each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@pytest.fixture(scope="module")
def data(photos: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)


def learner_of(data: ImageDataLoaders) -> Learner:
    return vision_learner(data, "test_resnet", weights=None, progress=False)


@in_each_mode
def test_a_learner_is_built_and_trains(data: ImageDataLoaders, mode: Callable[[], object]):
    expected = learner_of(data)
    expected.fit(1, 1e-2)
    with mode():
        learner = learner_of(data)
        learner.fit(1, 1e-2)
    assert same_state(expected.model.state_dict(), learner.model.state_dict())
    learner.fit(1, 1e-2)  # no tensor of the mode is left behind


@in_each_mode
def test_an_exported_model_is_loaded_and_answers(
    trained: Learner, photos: Path, tmp_path: Path, mode: Callable[[], object]
):
    image = photos / "red" / "000.jpg"
    trained.export(tmp_path / "usual")
    expected = load_learner(tmp_path / "usual").predict(image)
    with mode():
        trained.export(tmp_path / "model")
        loaded = load_learner(tmp_path / "model")
        answer = loaded.predict(image)
    assert answer == loaded.predict(image) == expected


@in_each_mode
def test_evaluation_gives_the_same(trained: Learner, mode: Callable[[], object]):
    expected = trained.validate()
    with mode():
        table = trained.predictions(trained.data.train)
        assert trained.validate() == expected
    assert (
        table.probabilities.tolist()
        == trained.predictions(trained.data.train).probabilities.tolist()
    )


@in_each_mode
def test_a_rate_is_found(mode: Callable[[], object]):
    learner = tiny_learner()
    expected = learner.lr_find(steps=20).suggestions
    with mode():
        assert learner.lr_find(steps=20).suggestions == expected


def learner_of_model(model: nn.Module) -> Learner:
    return Learner(tiny_data(), model, loss=nn.functional.cross_entropy, progress=False)


def test_a_model_that_was_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = tiny_model()
    with pytest.raises(ValueError, match=r"'0\.0\.weight' was made inside of torch.inference_mode"):
        learner_of_model(model)


def test_a_model_without_values_is_refused():
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(ValueError, match=r"'0\.0\.weight' is on the meta device and has no values"):
        learner_of_model(model)


@in_each_mode
def test_a_model_of_the_users_trains(mode: Callable[[], object]):
    expected, learner = tiny_learner(), tiny_learner()
    expected.fit(1)
    with mode():
        learner.fit(1)
    assert same_state(expected.model.state_dict(), learner.model.state_dict())


@in_each_mode
def test_a_learner_that_was_loaded_goes_on(tmp_path: Path, mode: Callable[[], object]):
    whole, half, loaded = (tiny_learner(ema=0.9) for _ in range(3))
    whole.fit(2)
    half.fit(2, callbacks=[StopAt(5)])
    with mode():
        half.save(tmp_path / "half.pt")
        loaded.load(tmp_path / "half.pt")
    loaded.resume()
    assert same_state(whole.model.state_dict(), loaded.model.state_dict())
