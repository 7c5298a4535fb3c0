"""One learner or predictor, used by several threads at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import copy_of, same_state, write_photos

from finetune import ImageDataLoaders, Learner, vision_learner

THREADS = 4


def learner_of(photos: Path) -> Learner:
    data = ImageDataLoaders.from_folder(
        photos, image_size=32, batch_size=4, valid_fraction=0.5, augment="none"
    )
    return vision_learner(
        data, "test_resnet", weights=None, device="cpu", precision="fp32", progress=False
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), per_class=4, size=(32, 32))


@pytest.fixture(scope="module")
def saved(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learner = learner_of(photos)
    learner.fit_one_cycle(1, 1e-2)
    path = tmp_path_factory.mktemp("saved") / "learner.ckpt"
    learner.save(path)
    return path


def at_once(call: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(call) for _ in range(2 * THREADS)]
        return [future.result() for future in futures]


def test_threads_of_a_loaded_learner_give_one_answer_and_change_nothing(
    photos: Path, saved: Path
) -> None:
    image = next(photos.rglob("*.jpg"))
    learner = learner_of(photos)
    learner.load(saved)
    before = copy_of(learner.model.state_dict())
    learner.model.train()  # as it is in the middle of a fit
    answers = at_once(lambda: learner.predict(image))
    assert same_state(learner.model.state_dict(), before)
    expected = learner.predict(image).probabilities
    for answer in answers:
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)


def test_threads_see_the_same_map(photos: Path, saved: Path) -> None:
    pytest.importorskip("captum")
    image = next(photos.rglob("*.jpg"))
    learner = learner_of(photos)
    learner.load(saved)
    expected = learner.activation_map(image)
    for found in at_once(lambda: learner.activation_map(image)):
        assert found.layer == expected.layer
        assert np.allclose(found.values, expected.values, atol=1e-4)
    hooks = [len(module._forward_hooks) for module in learner.model.modules()]
    assert not any(hooks)


def test_no_prediction_of_a_thread_turns_off_the_gradients_of_another(
    photos: Path, saved: Path
) -> None:
    pytest.importorskip("captum")
    image = next(photos.rglob("*.jpg"))
    predictor = learner_of(photos).predictor()

    def call() -> bool:
        predictor.predict(image)
        predictor.activation_map(image)
        return torch.is_grad_enabled()

    assert all(at_once(call))
