from pathlib import Path

import pytest

from finetune.data.table import read_csv


def write_csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


def test_csv_has_images_and_labels_in_its_first_columns(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,a\nsub/2.jpg,b\n")
    items, labels, marks = read_csv(file, tmp_path, None, None, None)
    assert items == [tmp_path / "1.jpg", tmp_path / "sub/2.jpg"]
    assert (labels, marks) == (["a", "b"], None)


def test_csv_columns_can_be_named(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "id,kind,file\n7,a,1.jpg\n8,b,2.jpg\n")
    items, labels, _ = read_csv(file, tmp_path, "file", "kind", None)
    assert items == [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    assert labels == ["a", "b"]


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("True", "False"), ("valid", "train"), ("yes ", ""), ("VAL", "no")]
)
def test_csv_column_marks_validation(tmp_path: Path, yes: str, no: str) -> None:
    file = write_csv(tmp_path, f"image,label,part\n1.jpg,a,{yes}\n2.jpg,b,{no}\n")
    assert read_csv(file, tmp_path, None, None, "part")[2] == [True, False]


def test_csv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "\ufeffimage,label\n1.jpg,a\n")
    assert read_csv(file, tmp_path, "image", None, None)[1] == ["a"]


def test_csv_cell_may_be_quoted(tmp_path: Path) -> None:
    file = write_csv(tmp_path, 'image,label\n"1, old.jpg","a ""b"""\n')
    assert read_csv(file, tmp_path, None, None, None)[:2] == ([tmp_path / "1, old.jpg"], ['a "b"'])


@pytest.mark.parametrize("columns", [("fil", None, None), (None, "x", None), (None, None, "y")])
def test_missing_csv_column_is_named(tmp_path: Path, columns: tuple) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,a\n")
    wanted = next(column for column in columns if column)
    with pytest.raises(ValueError, match=rf"no column '{wanted}', only \['image', 'label'\]"):
        read_csv(file, tmp_path, *columns)


@pytest.mark.parametrize("row", ["2.jpg,", ",b", "2.jpg"])
def test_empty_csv_cell_is_named_with_its_line(tmp_path: Path, row: str) -> None:
    file = write_csv(tmp_path, f"image,label\n1.jpg,a\n{row}\n3.jpg,a\n")
    with pytest.raises(ValueError, match=r"labels\.csv', line 3: image or label is empty"):
        read_csv(file, tmp_path, None, None, None)


def test_csv_row_without_its_mark_is_named_with_its_line(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label,valid\n1.jpg,a,1\n2.jpg,b\n")
    with pytest.raises(ValueError, match=r"labels\.csv', line 3"):
        read_csv(file, tmp_path, None, None, "valid")


def test_csv_mark_that_says_nothing_known_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label,valid\n1.jpg,a,vaild\n2.jpg,b,0\n")
    with pytest.raises(ValueError, match="vaild"):
        read_csv(file, tmp_path, None, None, "valid")


@pytest.mark.parametrize("text", ["", "image\n1.jpg\n"])
def test_csv_needs_two_columns(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="needs a header and two columns, found"):
        read_csv(write_csv(tmp_path, text), tmp_path, None, None, None)


def test_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CSV file '.*gone\.csv'"):
        read_csv(tmp_path / "gone.csv", tmp_path, None, None, None)
