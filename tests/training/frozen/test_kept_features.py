"""Features of frozen layers that a run on the same images finds, and those that it must not."""

from pathlib import Path

import pytest
import torch
from support import same_state, write_photos

from finetune import Callback, ImageDataLoaders, Learner, vision_learner
from finetune.training.events import Precompute


class Watch(Callback):
    """Whether features were computed."""

    def __init__(self) -> None:
        self.has_computed = False

    def on_precompute(self, event: Precompute) -> None:
        self.has_computed = True


@pytest.fixture
def data(tmp_path: Path) -> ImageDataLoaders:
    folder = write_photos(tmp_path / "photos", per_class=8)
    return ImageDataLoaders.from_folder(folder, image_size=32, batch_size=8)


def learner_of(data: ImageDataLoaders) -> Learner:
    return vision_learner(data, "test_resnet", weights=None, progress=False)


def computes(learner: Learner) -> bool:
    watch = Watch()
    learner.fine_tune(1, unfreeze="all", callbacks=[watch])
    return watch.has_computed


def test_a_second_learner_finds_them_and_trains_alike(data: ImageDataLoaders):
    first, second = learner_of(data), learner_of(data)
    assert computes(first)
    assert not computes(second)
    assert same_state(first.model.state_dict(), second.model.state_dict())


def test_one_changed_weight_is_another_backbone(data: ImageDataLoaders):
    assert computes(learner_of(data))
    other = learner_of(data)
    with torch.no_grad():
        next(other.model.parameters())[0, 0, 0, 0] += 1e-3
    assert computes(other)


def test_other_images_have_their_own(data: ImageDataLoaders):
    assert computes(learner_of(data))
    assert computes(learner_of(data.folds(2)[0]))


def test_another_image_size_has_its_own(data: ImageDataLoaders, tmp_path: Path):
    learner = learner_of(data)
    assert computes(learner)
    learner.data = ImageDataLoaders.from_folder(tmp_path / "photos", image_size=48, batch_size=8)
    assert computes(learner)


def test_a_hook_of_the_users_keeps_them_from_being_shared(data: ImageDataLoaders):
    assert computes(learner_of(data))
    hooked = learner_of(data)
    backbone = hooked.model.get_submodule("backbone")
    backbone.register_forward_hook(lambda module, inputs, outputs: outputs * 0)
    assert computes(hooked)


def test_random_views_are_not_kept(data: ImageDataLoaders):
    for _ in range(2):
        watch = Watch()
        learner_of(data).fine_tune(
            1, freeze_views=2, freeze_epochs=2, unfreeze="all", callbacks=[watch]
        )
        assert watch.has_computed
