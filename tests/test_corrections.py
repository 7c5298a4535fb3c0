"""The file of corrections: written whole, read back, and every row that is unclear an error."""

from pathlib import Path

import pytest

from finetune.corrections import Correction, image_name, read, write

HEADER = "image,label,action,new_label\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        Correction('hat/a, "b".jpg', "hat", "relabel", "t-shirt"),
        Correction("hat/\udce9.jpg", "hat", "remove"),
        Correction("17", "hat", "keep"),
        Correction("hat/later.jpg", "hat", None),
    ]
    write(tmp_path / "c.csv", rows)
    assert [row._replace(line=0) for row in read(tmp_path / "c.csv")] == rows
    assert [row.line for row in read(tmp_path / "c.csv")] == [2, 3, 4, 5]


def test_other_columns_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "c.csv", [Correction("1", "hat", "keep")], [["0.9"]], ["probability"])
    assert (tmp_path / "c.csv").read_text() == HEADER[:-1] + ",probability\n1,hat,keep,,0.9\n"
    assert read(tmp_path / "c.csv") == [Correction("1", "hat", "keep", "", 2)]


def test_an_image_is_named_below_the_folder_of_the_data(tmp_path: Path) -> None:
    assert image_name(tmp_path / "hat" / "1.jpg", tmp_path) == "hat/1.jpg"
    assert image_name("photos/./1.jpg") == "photos/1.jpg"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,hat,drop,", r"line 2: action must be one of keep, relabel, remove, or empty, got"),
        ("a.jpg,hat,relabel,", r"line 2: the action 'relabel' needs new_label, got ''"),
        ("a.jpg,hat,keep,shoe", r"line 2: the action 'keep' takes no new_label, got 'shoe'"),
        ("a.jpg,hat,,shoe", r"line 2: the action '' takes no new_label, got 'shoe'"),
        (",hat,keep,", "line 2 names no image"),
        ("a.jpg,hat,keep,\na.jpg,hat,remove,", "line 3: image 'a.jpg' is in line 2, too"),
    ],
)
def test_an_unclear_row_is_an_error(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(HEADER + row + "\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "c.csv")


def test_what_is_no_file_of_corrections_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file of corrections '.*c\.csv'"):
        read(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("image,label\na.jpg,hat\n")
    with pytest.raises(ValueError, match=r"no column 'action', only \['image', 'label'\]"):
        read(tmp_path / "c.csv")
