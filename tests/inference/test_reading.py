"""Every row has the name of its example in what the caller gave."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune import ImageDataLoaders, Learner, vision_learner

COUNT = 24


def image(number: int) -> np.ndarray:
    return np.full((40, 40, 3), 10 * number, np.uint8)


class Images:
    """A data set of (image, class index) that is dark first and bright last."""

    classes = ("dark", "bright")
    targets = tuple(int(i >= COUNT // 2) for i in range(COUNT))

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(image(index)), self.targets[index]


def from_dataset() -> ImageDataLoaders:
    return ImageDataLoaders.from_dataset(Images(), image_size=32, batch_size=4)


def from_arrays(**options: object) -> ImageDataLoaders:
    labels = [Images.classes[target] for target in Images.targets]
    images = [image(i) for i in range(COUNT)]
    return ImageDataLoaders.from_lists(
        images, labels, classes=Images.classes, image_size=32, batch_size=4, **options
    )


def marked() -> ImageDataLoaders:
    return from_arrays(is_valid=[i % 3 == 0 for i in range(COUNT)])


def learner_of(data: ImageDataLoaders) -> Learner:
    return vision_learner(data, "test_resnet", weights=None, progress=False)


@pytest.mark.parametrize("make", [from_dataset, from_arrays, marked])
def test_rows_have_the_numbers_of_the_data_that_was_split(
    make: Callable[[], ImageDataLoaders],
) -> None:
    learner = learner_of(make())
    parts = [learner.predictions(), learner.predictions(learner.data.train)]
    assert sorted(i for part in parts for i in part.items) == list(range(COUNT))
    for part in parts:
        assert [Images.targets[i] for i in part.items] == part.targets.tolist()
        shown = np.asarray(part.images([1])[0])[0, 0, 0]
        assert shown == image(part.items[1])[0, 0, 0]


def test_features_and_suspicious_labels_have_these_numbers() -> None:
    learner = learner_of(marked())
    expected = [i for i in range(COUNT) if i % 3]
    assert list(learner.features(learner.data.train).items) == expected
    assert {row.item for row in learner.suspicious_labels(COUNT)} <= set(expected)


def test_numbers_outlast_images_that_are_left_out() -> None:
    images = [image(i) for i in range(COUNT)]
    images[3] = np.zeros((0, 0, 3), np.uint8)
    labels = [Images.classes[target] for target in Images.targets]
    marks = [i % 3 == 0 for i in range(COUNT)]
    with pytest.warns(UserWarning, match="left out 1 unreadable"):
        data = ImageDataLoaders.from_lists(
            images, labels, is_valid=marks, image_size=32, batch_size=4, on_error="skip"
        )
    assert learner_of(data).predictions().items == (0, 6, 9, 12, 15, 18, 21)


def test_a_loader_without_labels_is_refused(trained: Learner, photos: Path) -> None:
    loader = trained.data.test_loader(photos)
    for call in (trained.predictions, lambda own: trained.tta(1, own)):
        with pytest.raises(ValueError, match=r"no labels.*learner\.predict_folder\(files\)"):
            call(loader)


def test_features_need_no_labels(trained: Learner, photos: Path) -> None:
    loader = trained.data.test_loader(photos)
    assert trained.features(loader).items == tuple(map(str, loader.items))
