from pathlib import Path

import numpy as np
import pytest
from support import COLOURS, write_photos

from finetune import ImageDataLoaders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageDataLoaders:
    folder = write_photos(tmp_path_factory.mktemp("photos"))
    return ImageDataLoaders.from_folder(folder, image_size=16, batch_size=4)


def shown(figure: object) -> list[tuple[str, np.ndarray]]:
    axes = [own for own in figure.axes if own.images]  # type: ignore[attr-defined]
    return [(own.get_title(), np.asarray(own.images[0].get_array())) for own in axes]


def test_images_are_not_normalised_and_have_their_labels(photos: Path) -> None:
    plain = ImageDataLoaders.from_folder(photos, image_size=16, batch_size=4, augment="none")
    own = plain.for_backbone(16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    for label, image in shown(own.show_batch(8)):
        mean = image.mean(axis=(0, 1)) * 255
        assert np.abs(mean - COLOURS[label]).max() < 20


def test_they_are_what_training_sees(data: ImageDataLoaders) -> None:
    own = data.for_backbone(16, (0.0,) * 3, (1.0,) * 3)
    batch = own.prepare(next(own.train.epoch(own.seed, 3)), 3)
    found = [image for _, image in shown(own.show_batch(4, epoch=3))]
    expected = batch.inputs.permute(0, 2, 3, 1).numpy()
    assert np.allclose(np.stack(found), expected, atol=1e-6)


def test_epochs_show_other_images_and_calls_the_same(data: ImageDataLoaders) -> None:
    one, again, other = (shown(data.show_batch(4, epoch=e)) for e in (0, 0, 1))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def test_there_are_no_more_than_an_epoch_has(data: ImageDataLoaders) -> None:
    assert len(shown(data.show_batch(99))) == 4 * len(data.train)


def test_several_labels_stand_above_each_other() -> None:
    images = [np.full((20, 20, 3), 9, np.uint8)] * 4
    names = [["first of the labels", "second of the labels"], [], ["third"], ["third"]]
    data = ImageDataLoaders.from_lists(
        images, names, task="multi_label", image_size=16, batch_size=1,
        is_valid=[False, False, False, True],
    )  # fmt: skip
    titles = {title for title, _ in shown(data.show_batch(3))}
    assert titles == {"first of the labels,\nsecond of the labels", "(none)", "third"}


@pytest.mark.parametrize("wrong", [{"count": 0}, {"columns": 0}])
def test_counts_are_positive(data: ImageDataLoaders, wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"(count|columns) must be a whole number of at least 1"):
        data.show_batch(**wrong)
