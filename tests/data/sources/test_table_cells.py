from pathlib import Path

import numpy as np
import pytest

from finetune.data.sources.tables import Layout, read_csv, read_table
from finetune.tasks import MultiLabel


def write_csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


def test_space_around_a_label_makes_no_class(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,red\n2.jpg,red \n3.jpg, blue\n")
    assert read_csv(file, tmp_path, Layout()).labels == ["red", "red", "blue"]


def test_label_of_spaces_is_empty(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,red\n2.jpg, \n")
    with pytest.raises(ValueError, match="line 3 has no label; fill the cell or leave the row out"):
        read_csv(file, tmp_path, Layout())


def test_missing_value_of_pandas_is_empty() -> None:
    missing = pytest.importorskip("pandas").NA
    table = {"file": ["1.jpg", "2.jpg"], "kind": ["a", missing], "v": [True, missing]}
    with pytest.raises(ValueError, match="the table, row 1 has no label"):
        read_table(table, None, Layout())
    assert read_table(table | {"kind": ["a", "b"]}, None, Layout(valid="v")).is_valid == [
        True,
        False,
    ]
    with pytest.raises(ValueError, match="the table, row 1 names no image"):
        read_table({"file": ["1.jpg", missing], "kind": ["a", "b"]}, None, Layout())


def test_list_in_a_cell_asks_for_its_task() -> None:
    table = {"file": ["1.jpg", "2.jpg"], "tags": [["a"], ["b"]]}
    with pytest.raises(
        ValueError, match=r"the table, row 0 needs one class name, got \['a'\]; for"
    ):
        read_table(table, None, Layout())


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_csv_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n1.jpg,caf\xe9\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"labels\.csv' is not in UTF-8: .*; save it as UTF-8, or"):
        read_csv(tmp_path / "labels.csv", tmp_path, Layout())


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", r"'\\t'")])
def test_other_delimiter_of_a_csv_is_named(tmp_path: Path, delimiter: str, shown: str) -> None:
    file = write_csv(tmp_path, f"image{delimiter}label\n1.jpg{delimiter}a\n")
    with pytest.raises(ValueError, match=f"cells are separated by {shown} instead of ','; pass wh"):
        read_csv(file, tmp_path, Layout())


def test_array_of_images_may_be_a_column() -> None:
    images = np.arange(6 * 20 * 20 * 3).astype(np.uint8).reshape(6, 20, 20, 3)
    rows = read_table({"image": images, "kind": list("ababab")}, None, Layout())
    assert {type(item) for item in rows.items} == {np.ndarray}
    assert np.array_equal(np.stack(rows.items), images)  # type: ignore[arg-type]


def test_labels_of_numpy_are_words() -> None:
    table = {"image": ["a.jpg"], "tags": list(np.array(["cat dog"]))}
    found = read_table(table, None, Layout(task=MultiLabel()))
    assert found.labels == [["cat", "dog"]]


def test_frame_whose_columns_are_no_lists_goes_through_its_protocol() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"image": ["a.jpg", "b.jpg"], "label": ["x", "y"]})

    class OnGpu:
        columns = ("image", "label")

        def __getitem__(self, name: str) -> object:
            raise TypeError("implicit conversion to a host list is not allowed")

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return table.__arrow_c_stream__(requested_schema)

    assert read_table(OnGpu(), None, Layout()).labels == ["x", "y"]
