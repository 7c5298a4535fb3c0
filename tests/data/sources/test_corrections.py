"""Data with corrections: other labels, images left out, nothing else changed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import write_photos

from finetune import ImageDataLoaders

SMALL: Any = {"image_size": 32, "batch_size": 4}
HEADER = "image,label,action,new_label\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", size=(16, 16))


def corrected(folder: Path, rows: str, **options: Any) -> ImageDataLoaders:
    file = folder.parent / "corrections.csv"
    file.write_text(HEADER + rows)
    return ImageDataLoaders.from_folder(folder, corrections=file, **SMALL, **options)


def labels_of(data: ImageDataLoaders) -> dict[str, tuple[str, str]]:
    """The part and the label of each image, by its path below the folder of its class."""
    found = {}
    for part, examples in (("train", data.train_examples), ("valid", data.valid_examples)):
        for item, text in zip(examples.items, examples.texts(), strict=True):
            path = Path(str(item))
            found[f"{path.parent.name}/{path.name}"] = (part, text)
    return found


def test_labels_change_images_go_and_no_image_changes_sides(folder: Path) -> None:
    before = labels_of(ImageDataLoaders.from_folder(folder, **SMALL))
    rows = "red/000.jpg,red,relabel,blue\nred/001.jpg,red,remove,\nblue/000.jpg,blue,keep,\n"
    data = corrected(folder, rows + "blue/001.jpg,blue,,\n")
    expected = dict(before)
    expected["red/000.jpg"] = (before["red/000.jpg"][0], "blue")
    del expected["red/001.jpg"]
    assert labels_of(data) == expected
    assert sorted(path.name for path in (folder / "red").iterdir())[:2] == ["000.jpg", "001.jpg"]


def test_batches_have_the_images_of_their_labels(folder: Path) -> None:
    data = corrected(folder, "red/000.jpg,red,remove,\nblue/000.jpg,,remove,\n", augment="none")
    for loader in (data.train, data.valid):
        for batch in loader.epoch(0, 0):
            images = data.prepare(batch, None).inputs.mean(dim=(2, 3))
            # the classes are blue, green and red, and so are their images
            assert ((2 - images.argmax(dim=1)) == batch.targets).all()


def test_the_fingerprint_of_the_data_says_so(folder: Path) -> None:
    plain = ImageDataLoaders.from_folder(folder, **SMALL).fingerprint()
    assert corrected(folder, "red/000.jpg,red,keep,\n").fingerprint() == plain
    assert corrected(folder, "red/000.jpg,red,relabel,blue\n").fingerprint() != plain
    assert corrected(folder, "red/000.jpg,red,remove,\n").fingerprint() != plain


def test_the_file_means_the_same_where_the_data_are_copied_to(folder: Path, tmp_path: Path) -> None:
    rows = "red/000.jpg,red,relabel,blue\n"
    here = labels_of(corrected(folder, rows))
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert labels_of(corrected(tmp_path / "elsewhere" / "copy", rows)) == here
    assert labels_of(corrected(folder, f"{folder}/red/000.jpg,red,relabel,blue\n")) == here


def test_a_corrected_label_that_was_mended_at_its_source_is_fine(folder: Path) -> None:
    data = corrected(folder, "red/000.jpg,blue,relabel,red\n")
    assert labels_of(data)["red/000.jpg"][1] == "red"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("red/99.jpg,red,keep,", r"line 2: there is no image 'red/99\.jpg' in the data; images"),
        ("red/000.jpg,red,relabel,bleu", "line 2: there is no class 'bleu' .* mean 'blue'"),
        ("red/000.jpg,green,remove,", "line 2: .* is labelled 'red' in the data and not 'green'"),
    ],
)
def test_what_does_not_fit_the_data_is_an_error(folder: Path, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrected(folder, row + "\n")


def test_no_image_left_is_an_error(folder: Path) -> None:
    data = ImageDataLoaders.from_folder(folder, **SMALL)
    rows = "".join(f"{item},,remove,\n" for item in data.valid_examples.items)
    with pytest.raises(ValueError, match="leaves no validation image"):
        corrected(folder, rows)


def test_images_in_memory_are_called_by_their_numbers(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), 20 * number, np.uint8) for number in range(12)]
    labels = ["dark", "light"] * 6
    file = tmp_path / "c.csv"
    file.write_text(HEADER + "3,light,relabel,dark\n7,light,remove,\n")
    data = ImageDataLoaders.from_lists(images, labels, corrections=file, **SMALL)
    found = {}
    for examples in (data.train_examples, data.valid_examples):
        for image, text in zip(examples.items, examples.texts(), strict=True):
            found[int(image[0, 0, 0]) // 20] = text
    assert found == {n: labels[n] for n in range(12) if n != 7} | {3: "dark"}


def test_rows_of_one_file_are_corrected_together(folder: Path) -> None:
    names = [f"{label}/00{i}.jpg" for label in ("red", "blue") for i in range(6)]
    rows = [f"{name},{name.partition('/')[0]}" for name in [*names, names[0]]]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]))
    (folder / "c.csv").write_text(HEADER + "red/000.jpg,red,relabel,blue\n")
    data = ImageDataLoaders.from_csv(
        folder / "labels.csv", corrections=folder / "c.csv", valid_fraction=0.3, **SMALL
    )
    texts = [*data.train_examples.texts(), *data.valid_examples.texts()]
    assert texts.count("blue") == 8


def test_several_labels_an_image_can_be_left_out_but_not_changed(folder: Path) -> None:
    table = {
        "image": [f"red/00{i}.jpg" for i in range(8)],
        "labels": ["red wet", "red", "wet", "red wet", "red", "wet", "", "red"],
    }

    def load(row: str) -> ImageDataLoaders:
        (folder / "c.csv").write_text(HEADER + row)
        return ImageDataLoaders.from_table(
            table, folder, task="multi_label", corrections=folder / "c.csv", **SMALL
        )

    data = load("red/000.jpg,,remove,\n")
    assert len(data.train_examples) + len(data.valid_examples) == 7
    with pytest.raises(ValueError, match=r"relabel is for one class an image, .*'multi_label'"):
        load("red/000.jpg,,relabel,wet\n")
