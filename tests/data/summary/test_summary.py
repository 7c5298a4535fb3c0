import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_photos

from finetune import ImageDataLoaders
from finetune.data.images.headers import read_header
from finetune.data.summary.duplicates import _digest
from finetune.data.summary.summary import DataSummary

SMALL: dict = {"image_size": 16, "batch_size": 1}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """train/ and valid/ with six and two photos in each of three classes, all different."""
    write_photos(tmp_path / "train", per_class=6)
    for label in write_photos(tmp_path / "valid", per_class=2, size=(50, 40)).iterdir():
        assert label.is_dir()
    return tmp_path


def summary_of(folder: Path, *, decode: bool = False, **options: Any) -> DataSummary:
    data = ImageDataLoaders.from_folder(folder, train="train", valid="valid", **SMALL, **options)
    return data.summary(decode=decode)


def test_clean_data_has_counts_and_nothing_else(split: Path) -> None:
    found = summary_of(split)
    assert [(c.name, c.train, c.valid) for c in found.classes] == [
        ("blue", 6, 2),
        ("green", 6, 2),
        ("red", 6, 2),
    ]
    assert found.imbalance == 1
    assert (found.widths, found.heights) == ((48, 48, 50), (40, 40, 40))
    assert found.formats == {"JPEG": 24}
    assert not any((found.leaks, found.duplicates, found.unreadable, found.left_out, found.unused))
    assert str(found).lstrip().startswith("class")


def test_leak_is_found_and_comes_first(split: Path) -> None:
    shutil.copy(split / "train/red/003.jpg", split / "valid/red/other_name.jpg")
    with pytest.warns(UserWarning, match="1 validation image can be found in training"):
        found = summary_of(split)
    (leak,) = found.leaks
    assert leak.first == str(split / "train/red/003.jpg")
    assert leak.second == str(split / "valid/red/other_name.jpg")
    assert str(found).startswith("LEAK: 1 of 7 validation images is in training")
    assert f"{leak.first} = {leak.second}" in str(found).splitlines()[1]
    assert found._repr_html_().startswith("<p><strong>LEAK")
    assert found.conflicts == found.duplicates == ()


def test_same_image_with_two_labels_is_a_conflict(split: Path) -> None:
    shutil.copy(split / "train/red/003.jpg", split / "train/blue/red.jpg")
    found = summary_of(split)
    assert found.leaks == ()
    (pair,) = found.duplicates
    assert {pair.first_label, pair.second_label} == {"red", "blue"}
    assert found.conflicts == found.duplicates
    assert "CONFLICT: 1 pair of identical images" in str(found)
    assert "(blue / red)" in str(found)


def test_images_of_one_size_but_other_bytes_are_no_duplicates(tmp_path: Path) -> None:
    for i in range(8):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{'ab'[i % 2]}{i}.bmp")
    data = ImageDataLoaders.from_name(tmp_path, r"^(\w)", **SMALL)
    assert data.summary().duplicates == data.summary().leaks == ()


def test_images_in_memory_have_duplicates_too() -> None:
    images = [np.full((20, 30, 3), i, np.uint8) for i in range(8)]
    images[5] = images[1].copy()
    as_tensor = torch.from_numpy(images[2].copy()).permute(2, 0, 1)
    marks = [False] * 6 + [True] * 2
    images[7] = images[3].copy()
    found = ImageDataLoaders.from_lists(
        [*images, as_tensor], [*"ababababa"], is_valid=[*marks, True], **SMALL
    ).summary()
    assert [(t.first, t.second) for t in found.duplicates] == [("training 1", "training 5")]
    assert [(t.first, t.second) for t in found.leaks] == [("training 3", "validation 1")]
    assert (found.widths, found.heights) == ((30, 30, 30), (20, 20, 20))


def test_dataset_has_a_summary() -> None:
    pairs = [(Image.new("RGB", (30, 20), (i % 5, 0, 0)), i % 2) for i in range(10)]
    found = ImageDataLoaders.from_dataset(pairs[:5], pairs[5:], **SMALL).summary()
    assert len(found.leaks) == 5
    assert found.formats == {"in memory": 10}


def test_damaged_header_is_found_at_once_and_damaged_pixels_when_decoded(split: Path) -> None:
    header, pixels = split / "train/red/001.jpg", split / "train/red/002.jpg"
    header.write_bytes(b"no image")
    pixels.write_bytes(pixels.read_bytes()[:-200])
    assert [e.source for e in summary_of(split).unreadable] == [str(header)]
    found = summary_of(split, decode=True)
    assert sorted(e.source for e in found.unreadable) == [str(header), str(pixels)]
    assert "2 images can't be read" in str(found)


def test_skipped_files_count_as_unreadable(split: Path) -> None:
    (split / "train/red/001.jpg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out 1"):
        found = summary_of(split, on_error="skip")
    assert [e.source for e in found.unreadable] == [str(split / "train/red/001.jpg")]
    assert (found.images, found.unused) == ((17, 6), 0)


def test_files_that_are_left_out_are_counted_by_extension(split: Path) -> None:
    for name in ("red/a.heic", "red/b.HEIC", "notes.txt", "blue/.hidden", "blue/README"):
        (split / "train" / name).write_bytes(b"")
    shutil.copy(split / "train/red/001.jpg", split / "train/stray.jpg")
    with pytest.warns(UserWarning, match="left out in"):
        found = summary_of(split)
    assert found.left_out == {".heic": 2, ".txt": 1, "(none)": 1}
    assert found.unused == 1
    assert "left out    .heic 2, " in str(found)


def test_size_is_of_the_upright_image(split: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in split.rglob("*.jpg"):
        with Image.open(file) as image:
            image.load()
        image.save(file, exif=exif)
    found = summary_of(split)
    assert (found.widths, found.heights) == ((40, 40, 40), (48, 48, 50))


def test_imbalance_is_of_training(split: Path) -> None:
    for i in range(1, 6):
        (split / f"train/red/00{i}.jpg").unlink()
    assert summary_of(split).imbalance == 6


def test_many_classes_are_shown_in_part() -> None:
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(150)]
    labels = [f"c{i // 2:03d}" for i in range(150)]
    labels[1] = "c009"
    data = ImageDataLoaders.from_lists(images, labels, is_valid=[False] * 149 + [True], **SMALL)
    lines = str(data.summary()).splitlines()
    assert any(line.strip().startswith("... 35 classes between") for line in lines)
    assert len(lines) < 60
    assert "c009" in lines[2]


def test_several_labels_an_image_are_counted_each() -> None:
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(5)]
    labels = [["a", "b"], ["a"], [], ["b"], []]
    data = ImageDataLoaders.from_lists(
        images, labels, is_valid=[False, False, False, True, True], task="multi_label", **SMALL
    )
    found = data.summary()
    assert [(c.name, c.train, c.valid) for c in found.classes] == [("a", 2, 0), ("b", 1, 1)]
    assert (found.unlabelled, found.imbalance) == (2, 2)
    assert "without a label  2 images" in str(found)


def test_targets_of_a_regression_have_ranges() -> None:
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(4)]
    data = ImageDataLoaders.from_lists(
        images, [1, 2, 6, 9], is_valid=[False] * 3 + [True], task="regression", **SMALL
    )
    found = data.summary()
    assert [(t.name, t.train, t.valid) for t in found.targets] == [("target", (1, 3, 6), (9, 9, 9))]
    assert found.imbalance is None
    assert "target" in str(found)
    assert ">target</td>" in found._repr_html_()


def test_folder_may_be_the_present_one(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(split / "train")
    found = ImageDataLoaders.from_folder(".", **SMALL).summary()
    assert (found.unused, found.left_out) == (0, {})


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_images_with_other_palettes_are_no_duplicates(mode: str) -> None:
    pairs = []
    for i in range(6):
        image = Image.new("P", (30, 20), 1)
        image.putpalette([0, 0, 0, 40 * i, 0, 0])
        pairs.append((image.convert(mode), i % 2))
    found = ImageDataLoaders.from_dataset(pairs[:4], pairs[3:], **SMALL).summary()
    assert found.duplicates == ()
    assert [(t.first, t.second) for t in found.leaks] == [("training 3", "validation 0")]


def test_image_too_large_to_train_on_is_unreadable(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    Image.new("RGB", (50, 40)).save(split / "train" / "large.png")
    header = read_header([str(split / "train" / "large.png")], 0)
    assert header.error is not None
    assert "decompression bomb" in header.error.reason


def test_broken_image_in_memory_has_no_twin() -> None:
    class Broken:
        def __array__(self, *_: object, **__: object) -> object:
            raise SyntaxError("broken PNG file")

    items: list[Any] = [np.zeros((4, 4, 3), np.uint8), Broken()]
    assert _digest(items, 0) is not None
    assert _digest(items, 1) is None


def test_uneven_classes_are_said_with_what_to_do(split: Path) -> None:
    for i in range(1, 6):
        (split / f"train/red/00{i}.jpg").unlink()
    first, *ways = str(summary_of(split)).splitlines()
    assert first == "UNEVEN classes: 6 training images of blue, 1 of red (.imbalance)"
    assert any('class_weights="balanced"' in way for way in ways)
    assert any("adjust_priors" in way for way in ways)


def test_header_of_an_array_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 30), np.uint16))
    header = read_header([tmp_path / "a.npy"], 0)
    assert (header.width, header.height, header.format, header.bytes) == (30, 20, "NumPy", 1328)
    (tmp_path / "b.npy").write_bytes(b"nothing")
    assert read_header([tmp_path / "b.npy"], 0).error is not None
