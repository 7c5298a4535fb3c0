import re
from pathlib import Path

import pytest
from support import write_photos

from finetune import ImageDataLoaders
from finetune.data.sources.names import from_names

SMALL: dict = {"image_size": 16, "batch_size": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """red_000.jpg, blue_000.jpg, ... below two folders."""
    for label in ("red", "blue"):
        write_photos(tmp_path / "all", classes=(label,), name=lambda i, c=label: f"{c}_{i}.jpg")
    return tmp_path


@pytest.mark.parametrize("pattern", [r"^(.+)_\d+", re.compile(r"([a-z]+)_"), lambda p: p.stem[:-2]])
def test_label_is_in_the_name(folder: Path, pattern: object) -> None:
    data = ImageDataLoaders.from_name(folder, pattern, **SMALL)  # type: ignore[arg-type]
    assert data.classes == ("blue", "red")
    assert len(data.train_examples) + len(data.valid_examples) == 16
    for item, label in zip(data.train_examples.items, data.train_examples.texts(), strict=True):
        assert Path(str(item)).parent.name == label


def test_files_may_be_given(folder: Path) -> None:
    files = sorted(folder.rglob("*.jpg"))[2:]
    items, labels = from_names(files, r"^(.+)_")
    assert items == files
    assert set(labels) == {"blue", "red"}


def test_function_says_what_is_validation(folder: Path) -> None:
    data = ImageDataLoaders.from_name(
        folder, r"^(.+)_", is_valid=lambda path: path.stem.endswith("_3"), **SMALL
    )
    assert {Path(str(i)).name for i in data.valid_examples.items} == {"red_3.jpg", "blue_3.jpg"}


def test_name_may_hold_a_number(folder: Path) -> None:
    data = ImageDataLoaders.from_name(folder, r"_(\d)", task="regression", classes=["n"], **SMALL)
    assert data.classes == ("n",)
    assert sorted({float(v) for v in data.train_examples.labels}) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_name_that_does_not_match_is_named() -> None:
    with pytest.raises(ValueError, match=r"pattern='\^\(\.\)_' finds no label in 'cat\.jpg'"):
        from_names(["a_1.jpg", "cat.jpg"], "^(.)_")


@pytest.mark.parametrize(("pattern", "count"), [("a", 0), ("(a)(b)", 2)])
def test_pattern_has_one_group(pattern: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"needs one group in brackets, .* it has {count}"):
        from_names(["a_1.jpg"], pattern)


def test_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no image in '.*' or below"):
        from_names(tmp_path, "(.)")
    with pytest.raises(FileNotFoundError, match=r"image folder '.*gone' does not exist"):
        from_names(tmp_path / "gone", "(.)")
