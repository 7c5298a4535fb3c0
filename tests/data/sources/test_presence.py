"""Tables whose images are not where their paths say: told at once, with where they are."""

from pathlib import Path
from typing import Any

import pytest
from support import write_photos

from finetune import ImageDataLoaders

OPTIONS: dict[str, Any] = {"image_size": 32, "batch_size": 4}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "data" / "photos")


def write_table(file: Path, paths: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{path},{Path(path).parent.name}" for path in paths]
    file.write_text("\n".join(["image,label", *rows]))
    return file


def paths_below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))


def test_the_folder_that_has_the_images_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = paths_below(photos)
    for file, folder in (
        (tmp_path / "data" / "labels.csv", r"'data/photos'"),  # in the table's folder
        (photos / "tables" / "labels.csv", r"'data/photos'"),  # above the table
        (tmp_path / "tables" / "labels.csv", None),
    ):
        table = write_table(file, paths)
        message = (
            r"none of the images of '.*labels\.csv' is there, such as '.*blue/000\.jpg'; paths are "
            r"relative to the folder '.*'; pass folder= with the one that the images are below"
        )
        hint = "$" if folder is None else f", which seems to be {folder}$"
        with pytest.raises(FileNotFoundError, match=message + hint):
            ImageDataLoaders.from_csv(table, **OPTIONS)
    data = ImageDataLoaders.from_csv(tmp_path / "data" / "labels.csv", photos, **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 24


def test_paths_from_the_present_folder_are_found(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "data")
    table = write_table(tmp_path / "tables" / "labels.csv", paths_below(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"which seems to be '\.'$"):
        ImageDataLoaders.from_csv(table, **OPTIONS)


def test_an_ending_that_is_left_out_is_said(photos: Path) -> None:
    names = [path.removesuffix(".jpg") for path in paths_below(photos)]
    columns = {"image_column": "image", "label_column": "label"}
    for folder in (photos, photos.parent):
        table = write_table(folder / "labels.csv", names)
        with pytest.raises(FileNotFoundError, match=r"end.* '\.jpg'"):
            ImageDataLoaders.from_csv(table, **columns, **OPTIONS)


def test_paths_of_another_machine_are_told(tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "labels.csv", ["/other/machine/a/1.jpg", "/other/machine/b/1.jpg"]
    )
    message = r"such as '/other/machine/a/1\.jpg'; write their paths as they are on this machine"
    with pytest.raises(FileNotFoundError, match=message):
        ImageDataLoaders.from_csv(table, **OPTIONS)


def test_a_data_frame_is_looked_at_too(photos: Path) -> None:
    table = {"image": paths_below(photos), "label": ["a", "b"] * 12}
    with pytest.raises(FileNotFoundError, match="none of the images of the table is there"):
        ImageDataLoaders.from_table(table, **OPTIONS)


def test_some_that_are_missing_are_unreadable_images(photos: Path) -> None:
    paths = paths_below(photos)
    table = write_table(photos / "labels.csv", [*paths, *(f"blue/x{n}.jpg" for n in range(9))])
    ImageDataLoaders.from_csv(table, **OPTIONS)
    with pytest.warns(UserWarning, match="left out 9 unreadable images"):
        ImageDataLoaders.from_csv(table, on_error="skip", **OPTIONS)
