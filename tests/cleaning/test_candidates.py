"""Which images a learner asks about."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny_learner, write_photos

from finetune import ImageDataLoaders, Learner, vision_learner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in one colour a class, of which three of the 120 are in the wrong folder."""
    photos = write_photos(tmp_path_factory.mktemp("clean") / "photos", per_class=40, size=(32, 32))
    for number in (3, 11, 17):
        red = photos / "red" / f"{number:03d}.jpg"
        red.rename(photos / "blue" / f"was_red_{number}.jpg")
    return photos


@pytest.fixture(scope="module")
def learner(folder: Path) -> Learner:
    data = ImageDataLoaders.from_folder(folder, image_size=32, batch_size=8, valid_fraction=0.1)
    return vision_learner(data, "test_efficientnet", weights=None, progress=False)


def test_suspicious_labels_come_first_and_no_image_twice(learner: Learner, tmp_path: Path) -> None:
    session = learner.cleaning_session(tmp_path / "c.csv", count=20)
    names = [candidate.name for candidate in session.candidates]
    assert len(names) == len(set(names)) > 3
    assert all(name.startswith("blue/was_red") for name in names[:2])
    first = session.candidates[0]
    assert (first.label, first.suggestion) == ("blue", "red")
    assert first.reason.startswith("looks like red, ")
    assert session.candidates[-1].reason.startswith("a large loss, ")
    assert "data:image/jpeg" in session.view()["image"]


def test_decisions_go_back_into_the_data(learner: Learner, folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*.jpg"))
    session = learner.cleaning_session(tmp_path / "c.csv")
    wrong = [c.name for c in session.candidates if "was_red" in c.name]
    for number, candidate in enumerate(session.candidates):
        if candidate.name in wrong:
            session.decide(number, "relabel", "red")
        else:
            session.decide(number, "keep")
    mended = ImageDataLoaders.from_folder(folder, image_size=32, corrections=tmp_path / "c.csv")
    assert sum(mended.train_examples.counts()) == len(learner.data.train_examples) + (
        len(learner.data.valid_examples) - len(mended.valid_examples)
    )
    items, labels = map(str, mended.train_examples.items), mended.train_examples.texts()
    texts = dict(zip(items, labels, strict=True))
    assert wrong
    assert all(texts[str(folder / name)] == "red" for name in wrong)
    assert sorted(folder.rglob("*.jpg")) == before


def test_labels_of_validation_can_be_asked_about(learner: Learner, tmp_path: Path) -> None:
    session = learner.cleaning_session(tmp_path / "c.csv", of="valid")
    items = {str(item) for item in learner.data.valid_examples.items}
    root = learner.data.root
    assert {str(root / candidate.name) for candidate in session.candidates} <= items


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_bands_of_any_number_and_range_are_shown(tmp_path: Path, bands: int) -> None:
    ramp = np.arange(32 * 32, dtype=np.float32).reshape(32, 32) * 3
    pixels = np.stack([ramp * (band == 0) for band in range(bands)], axis=-1)
    for number in range(12):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", pixels + number)
    data = ImageDataLoaders.from_folder(
        tmp_path / "photos",
        image_size=32,
        batch_size=2,
        channels=bands,
        value_range=(0, float(ramp.max())),
        augment="none",
    )
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    view = learner.cleaning_session(tmp_path / "c.csv").view()
    assert view["error"] == ""
    content = base64.b64decode(view["image"].removeprefix("data:image/jpeg;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert shown.shape == (32, 32, 3)
    assert shown[1, :, 0].mean() < 25
    assert shown[-2, :, 0].mean() > 225
    # of three bands and more they are red, green and blue
    assert (shown[-2, :, 1].mean() < 30) == (bands >= 3)


def test_other_tasks_have_large_losses_only(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", size=(16, 16))
    table = {
        "image": [f"red/00{number}.jpg" for number in range(8)],
        "labels": ["red wet", "red", "wet", "red wet", "red", "wet", "red", "red"],
    }
    data = ImageDataLoaders.from_table(
        table, folder, task="multi_label", image_size=32, batch_size=4
    )
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    session = learner.cleaning_session(tmp_path / "c.csv", count=3)
    assert [candidate.suggestion for candidate in session.candidates] == [None] * 3
    assert session.view()["classes"] == []
    assert "a large loss, " in session.view()["reason"]


def test_data_without_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="only images can be shown; make the data with Image"):
        tiny_learner().clean()
