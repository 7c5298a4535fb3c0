"""What is said when the data are made."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support import write_photos

from finetune import ImageDataLoaders
from finetune.data import notices

SMALL: dict = {"image_size": 16, "batch_size": 2}
IMAGES = [np.full((20, 20, 3), 9 * number, np.uint8) for number in range(12)]


class Sorted:
    """A sorted data set of three classes, cut off."""

    classes = ("a", "b", "c")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return IMAGES[index], index // 4


def test_data_of_one_class_of_several_are_refused() -> None:
    """The model would be right in all of validation."""
    with pytest.raises(ValueError, match=r"all \d training images are of the class 'a', of 3 clas"):
        ImageDataLoaders.from_dataset(Sorted(4), **SMALL)


def test_classes_without_a_training_image_are_named() -> None:
    with pytest.warns(UserWarning, match="1 of 3 classes have no training image: 'c'; the model"):
        ImageDataLoaders.from_dataset(Sorted(8), **SMALL)


def test_many_classes_without_a_training_image_are_named_in_part() -> None:
    with pytest.warns(UserWarning, match="8 of 10 .*: '2', '3', '4', '5', '6' and 3 more; the mo"):
        ImageDataLoaders.from_lists(
            IMAGES, [0, 1] * 6, classes=[str(number) for number in range(10)], **SMALL
        )


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    write_photos(tmp_path / "train", per_class=3)
    write_photos(tmp_path / "valid", per_class=2, size=(50, 40))
    shutil.copy(tmp_path / "train/red/001.jpg", tmp_path / "valid/blue/copy.jpg")
    return tmp_path


def test_file_on_both_sides_is_said(leaking: Path) -> None:
    message = r"1 validation image can be .*red/001\.jpg = .*blue/copy\.jpg; data\.summary"
    with pytest.warns(UserWarning, match=message) as warned:
        ImageDataLoaders.from_folder(leaking, train="train", valid="valid", **SMALL)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_files_of_one_size_with_other_bytes_are_no_leak(leaking: Path) -> None:
    copy = leaking / "valid/blue/copy.jpg"
    content = bytearray(copy.read_bytes())
    content[-3] ^= 1
    copy.write_bytes(content)
    ImageDataLoaders.from_folder(leaking, train="train", valid="valid", **SMALL)


def test_many_files_are_not_compared(leaking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "FILES_COMPARED", 3)
    ImageDataLoaders.from_folder(leaking, train="train", valid="valid", **SMALL)


def test_of_many_files_only_so_many_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "FILES_COMPARED", 3)
    looked_at: list[str] = []

    def file_name(item: str) -> str:
        looked_at.append(item)
        return item

    monkeypatch.setattr(notices, "file_name", file_name)
    assert notices.shared_files(["train.jpg"] * 100, ["valid.jpg"] * 100) == []
    assert len(looked_at) == 8


def test_label_that_only_validation_has_is_named() -> None:
    labels = [["usual"], ["usual", "rare"]]
    with pytest.warns(UserWarning, match="1 of 2 classes have no training image: 'rare'"):
        ImageDataLoaders.from_lists(
            IMAGES[:4],
            [labels[0]] * 3 + [labels[1]],
            is_valid=[False, False, False, True],
            classes=["rare", "usual"],
            task="multi_label",
            **SMALL,
        )
