from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import ImageDataLoaders
from finetune.data.sources.tables import Layout, read_csv, read_table
from finetune.tasks import MultiLabel, Regression


def write_csv(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


def test_csv_has_images_and_labels_in_its_first_columns(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,a\nsub/2.jpg,b\n")
    items, labels, marks, *_ = read_csv(file, tmp_path, Layout())
    assert items == [str(tmp_path / "1.jpg"), str(tmp_path / "sub/2.jpg")]
    assert (labels, marks) == (["a", "b"], None)


@pytest.mark.parametrize(
    "cell", ["1.jpg", "./1.jpg", "a//1.jpg", "a/./1.jpg", "../1.jpg", "/a/1.jpg", "a.jpg/", "b./1"]
)
def test_paths_are_spelled_as_pathlib_does(tmp_path: Path, cell: str) -> None:
    for folder in (tmp_path, Path(), tmp_path / "..", None):
        rows = read_table({"image": [cell], "label": ["a"]}, folder, Layout("image"))
        assert rows.items == [str(Path(cell) if folder is None else folder / cell)]


def test_csv_columns_can_be_named(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "id,kind,file\n7,a,1.jpg\n8,b,2.jpg\n")
    items, labels, *_ = read_csv(file, tmp_path, Layout("file", "kind"))
    assert items == [str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")]
    assert labels == ["a", "b"]


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("True", "False"), ("valid", "train"), ("yes ", ""), ("VAL", "no")]
)
def test_csv_column_marks_validation(tmp_path: Path, yes: str, no: str) -> None:
    file = write_csv(tmp_path, f"image,label,part\n1.jpg,a,{yes}\n2.jpg,b,{no}\n")
    assert read_csv(file, tmp_path, Layout(valid="part"))[2] == [True, False]


def test_csv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "\ufeffimage,label\n1.jpg,a\n")
    assert read_csv(file, tmp_path, Layout("image"))[1] == ["a"]


def test_csv_cell_may_be_quoted(tmp_path: Path) -> None:
    file = write_csv(tmp_path, 'image,label\n"1, old.jpg","a ""b"""\n')
    assert read_csv(file, tmp_path, Layout())[:2] == ([str(tmp_path / "1, old.jpg")], ['a "b"'])


@pytest.mark.parametrize("columns", [("fil", None, None), (None, "x", None), (None, None, "y")])
def test_missing_csv_column_is_named(tmp_path: Path, columns: tuple) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,a\n")
    wanted = next(column for column in columns if column)
    with pytest.raises(ValueError, match=rf"no column '{wanted}', only \['image', 'label'\]"):
        read_csv(file, tmp_path, Layout(*columns))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("2.jpg,", "has no label"),
        (",b", "names no image"),
        ("2.jpg", "has 1 cell and the header 2"),
    ],
)
def test_empty_csv_cell_is_named_with_its_line(tmp_path: Path, row: str, problem: str) -> None:
    file = write_csv(tmp_path, f"image,label\n1.jpg,a\n{row}\n3.jpg,a\n")
    with pytest.raises(ValueError, match=rf"labels\.csv', line 3 {problem}"):
        read_csv(file, tmp_path, Layout())


def test_csv_row_without_its_mark_is_named_with_its_line(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label,valid\n1.jpg,a,1\n2.jpg,b\n")
    with pytest.raises(ValueError, match=r"labels\.csv', line 3"):
        read_csv(file, tmp_path, Layout(valid="valid"))


def test_csv_mark_that_says_nothing_known_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label,valid\n1.jpg,a,vaild\n2.jpg,b,0\n")
    with pytest.raises(ValueError, match="line 2, column 'valid' says 'vaild' where it should"):
        read_csv(file, tmp_path, Layout(valid="valid"))


@pytest.mark.parametrize("text", ["", "image\n1.jpg\n"])
def test_csv_needs_two_columns(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="needs a header and two columns, found"):
        read_csv(write_csv(tmp_path, text), tmp_path, Layout())


def test_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CSV file '.*gone\.csv'"):
        read_csv(tmp_path / "gone.csv", tmp_path, Layout())


def test_a_folder_in_the_place_of_the_csv_is_told(tmp_path: Path) -> None:
    """fastai's from_csv takes the folder first."""
    with pytest.raises(IsADirectoryError, match=r"is a folder; the CSV file comes first, and fold"):
        read_csv(tmp_path, tmp_path, Layout())


# --- several labels, and numbers


@pytest.mark.parametrize(
    ("delimiter", "cells"), [(" ", ["a b", "", " b "]), (";", ["a; b", "", "b;"])]
)
def test_labels_of_an_image_stand_in_one_cell(
    tmp_path: Path, delimiter: str, cells: list[str]
) -> None:
    text = "\n".join(["image,tags", *(f"{i}.jpg,{cell}" for i, cell in enumerate(cells))])
    layout = Layout(task=MultiLabel(), delimiter=delimiter)
    assert read_csv(write_csv(tmp_path, text), tmp_path, layout).labels == [["a", "b"], [], ["b"]]


def test_empty_delimiter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_delimiter must be .* one character"):
        Layout(task=MultiLabel(), delimiter="")


def test_targets_stand_in_several_columns(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,x,y\n1.jpg,1,2e3\n2.jpg,-3, 4.5\n")
    rows = read_csv(file, tmp_path, Layout(label=["x", "y"], task=Regression()))
    assert (rows.labels, rows.names) == ([[1, 2000], [-3, 4.5]], ("x", "y"))


@pytest.mark.parametrize("cell", ["big", "nan", "inf"])
def test_target_that_is_no_number_is_named_with_its_line(tmp_path: Path, cell: str) -> None:
    file = write_csv(tmp_path, f"image,x\n1.jpg,1\n2.jpg,{cell}\n")
    with pytest.raises(ValueError, match=r"labels\.csv', line 3: a target is a (finite )?number"):
        read_csv(file, tmp_path, Layout(task=Regression()))


def test_columns_of_ones_and_zeros_are_classes(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,cat,dog\n1.jpg,1,0\n2.jpg,1.0,1\n3.jpg,0,0\n4.jpg,0,1\n")
    (tmp_path / "1.jpg").touch()  # where some image is, so are the others
    data = ImageDataLoaders.from_csv(
        file, label_column=["dog", "cat"], task="multi_label", batch_size=1, valid_fraction=0.5
    )
    assert data.classes == ("dog", "cat")
    labels = {}
    for part in (data.train_examples, data.valid_examples):
        labels |= dict(
            zip((Path(str(item)).name for item in part.items), part.texts(), strict=True)
        )
    assert labels == {"1.jpg": "cat", "2.jpg": "dog, cat", "3.jpg": "(none)", "4.jpg": "dog"}


def test_cell_of_a_class_that_is_neither_one_nor_zero_is_named(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,cat,dog\n1.jpg,1,maybe\n")
    with pytest.raises(ValueError, match="line 2: the column of a class holds 1 or 0, got 'maybe'"):
        read_csv(file, tmp_path, Layout(label=["cat", "dog"], task=MultiLabel()))


@pytest.mark.parametrize("cell", ["\"['a b', 'c']\"", '"[""a b"", ""c""]"'])
def test_list_that_was_saved_as_text_is_read(tmp_path: Path, cell: str) -> None:
    file = write_csv(tmp_path, f"image,tags\n1.jpg,{cell}\n2.jpg,[]\n")
    assert read_csv(file, tmp_path, Layout(task=MultiLabel())).labels == [["a b", "c"], []]


@pytest.mark.parametrize("cell", ["['a' 'b']", "['a'\n 'b']", "['a', b]"])
def test_list_in_a_text_that_is_not_sure_is_refused(tmp_path: Path, cell: str) -> None:
    """Python would read numpy's list as one name, ab."""
    file = write_csv(tmp_path, f'image,tags\n1.jpg,"{cell}"\n')
    with pytest.raises(ValueError, match=r"has a list as text, .* which can't be read for sure"):
        read_csv(file, tmp_path, Layout(task=MultiLabel()))


def test_list_as_text_is_no_class(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label\n1.jpg,\"['a', 'b']\"\n")
    with pytest.raises(ValueError, match=r"needs one class name, got the list .*'multi_label'"):
        read_csv(file, tmp_path, Layout())


def test_several_label_columns_are_for_numbers(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,x,y\n1.jpg,1,2\n")
    with pytest.raises(ValueError, match="several label columns are for task='regression'"):
        read_csv(file, tmp_path, Layout(label=["x", "y"]))


# --- data frames

FRAME = {"file": ["1.jpg", "2.jpg"], "kind": ["a", "b"], "held out": [False, True]}


def frames(columns: dict[str, list[Any]]) -> list[Any]:
    """The same table in all kinds that are installed."""
    tables: list[Any] = [columns]
    for name, make in (
        ("pandas", lambda m: m.DataFrame(columns)),
        ("polars", lambda m: m.DataFrame(columns)),
        ("pyarrow", lambda m: m.table(columns)),
    ):
        try:
            tables.append(make(__import__(name)))
        except ImportError:
            continue
    return tables


def test_every_kind_of_table_is_read_alike() -> None:
    assert len(frames(FRAME)) >= 3
    for table in frames(FRAME):
        rows = read_table(table, Path("folder"), Layout(valid="held out"))
        assert rows.items == ["folder/1.jpg", "folder/2.jpg"]
        assert (rows.labels, rows.is_valid) == (["a", "b"], [False, True])


def test_numbers_of_a_table_may_be_classes_or_targets() -> None:
    for table in frames({"file": ["1.jpg", "2.jpg"], "grade": [3, 4]}):
        assert read_table(table, None, Layout()).labels == ["3", "4"]
        rows = read_table(table, None, Layout(task=Regression()))
        assert (rows.labels, rows.names) == ([[3.0], [4.0]], ("grade",))


def test_cell_of_a_table_may_hold_a_list_of_labels() -> None:
    for table in frames({"file": ["1.jpg", "2.jpg"], "tags": [["a", "b"], []]}):
        assert read_table(table, None, Layout(task=MultiLabel())).labels == [["a", "b"], []]


@pytest.mark.parametrize("protocol", ["__arrow_c_stream__", "__dataframe__"])
def test_table_that_only_speaks_a_protocol_is_read(protocol: str) -> None:
    arrow = pytest.importorskip("pyarrow").table({"file": ["1.jpg", "2.jpg"], "kind": ["a", "b"]})

    class Other:
        pass

    setattr(Other, protocol, lambda self, *a, **k: getattr(arrow, protocol)(*a, **k))
    assert read_table(Other(), None, Layout()).labels == ["a", "b"]


def test_missing_value_of_a_table_is_named_with_its_row() -> None:
    for table in frames({"file": ["1.jpg", "2.jpg"], "kind": ["a", None]}):
        with pytest.raises(ValueError, match="the table, row 1 has no label"):
            read_table(table, None, Layout())


# --- no cell is dropped


@pytest.mark.parametrize(
    ("row", "delimiter", "reason"),
    [
        ("2.jpg,red,wet", ",", "label_delimiter=',' is what separates the cells, too"),
        ("2.jpg,red,wet", " ", "write a text with a comma in quotes"),
        ("old, 2.jpg,red", " ", "write a text with a comma in quotes"),
    ],
)
def test_csv_row_with_more_cells_than_the_header_is_refused(
    tmp_path: Path, row: str, delimiter: str, reason: str
) -> None:
    file = write_csv(tmp_path, f"image,tags\n1.jpg,red\n{row}\n")
    layout = Layout(task=MultiLabel(), delimiter=delimiter)
    with pytest.raises(ValueError, match=f"line 3 has 3 cells and the header 2; {reason}"):
        read_csv(file, tmp_path, layout)


def test_csv_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    file = write_csv(tmp_path, 'image,label\n1.jpg,"two\nlines"\n\n2.jpg,a,b\n')
    with pytest.raises(ValueError, match="line 5 has 3 cells"):
        read_csv(file, tmp_path, Layout())


@pytest.mark.parametrize("first", ["1.jpg,a", "a,1.jpg", "0,1.JPEG,a", "scan1,a"])
def test_csv_without_a_header_is_refused(tmp_path: Path, first: str) -> None:
    (tmp_path / "scan1").touch()
    with pytest.raises(ValueError, match=r"has no header: its first line names the image '"):
        read_csv(write_csv(tmp_path, f"{first}\n2.jpg,b\n"), tmp_path, Layout())


def test_csv_with_a_repeated_header_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "image,label,label\n1.jpg,a,b\n")
    with pytest.raises(ValueError, match="has 2 columns called 'label'; give each a name of its"):
        read_csv(file, tmp_path, Layout())


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("image,label\n1.jpg,a\n2.jpg,b", Layout()),
        ("label,image\na,1.jpg\nb,2.jpg", Layout()),
        (",image,label\n0,1.jpg,a\n1,2.jpg,b", Layout()),
        ("n,file,part,kind\n0,1.jpg,1,a\n1,2.jpg,0,b", Layout(valid="part")),
        ("kind,file\na,1.jpg\nb,2.jpg", Layout(image="file")),
        ("kind,file\na,1.jpg\nb,2.jpg", Layout(label="kind")),
    ],
)
def test_columns_are_found_by_what_they_hold(tmp_path: Path, text: str, layout: Layout) -> None:
    items, labels, *_ = read_csv(write_csv(tmp_path, text), tmp_path, layout)
    assert items == [str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")]
    assert labels == ["a", "b"]


def test_files_tell_the_column_of_images_where_names_have_no_ending(tmp_path: Path) -> None:
    for name in ("scan1", "scan2"):
        (tmp_path / name).touch()
    file = write_csv(tmp_path, "label,scan\na,scan1\nb,scan2\n")
    assert read_csv(file, tmp_path, Layout()).items == [
        str(tmp_path / "scan1"),
        str(tmp_path / "scan2"),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [("a,b,c\n1,2,3", "none does"), ("n,old,new\n1,a.jpg,b.jpg", r"\['old', 'new'\] all do")],
)
def test_columns_that_can_not_be_told_are_asked_for(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(ValueError, match=rf"which column .* names the images .*{found}, of \["):
        read_csv(write_csv(tmp_path, text), tmp_path, Layout())


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_lists_of_labels_are_no_images(kind: Any) -> None:
    table = {"tags": [kind(["a", "b"]), kind(["a"])], "file": ["1.jpg", "2.jpg"]}
    rows = read_table(table, None, Layout(task=MultiLabel()))
    assert rows.items == ["1.jpg", "2.jpg"]


def test_content_of_files_may_stand_in_a_table() -> None:
    table = {"label": ["a", "b"], "image": [{"bytes": b"1", "path": None}] * 2}
    assert read_table(table, None, Layout()).labels == ["a", "b"]


def test_column_of_labels_that_can_not_be_told_is_asked_for(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "id,label,image\n7,a,1.jpg\n")
    with pytest.raises(ValueError, match=r"holds the labels\? pass label_column=, one of \['id', "):
        read_csv(file, tmp_path, Layout())


def test_missing_mark_of_a_table_is_training() -> None:
    for table in frames({"file": ["1.jpg", "2.jpg"], "kind": ["a", "b"], "v": [True, None]}):
        assert read_table(table, None, Layout(valid="v")).is_valid == [True, False]


def test_missing_column_of_a_table_is_corrected() -> None:
    for table in frames(FRAME):
        with pytest.raises(ValueError, match=r"no column 'knd', only .*; did you mean 'kind'"):
            read_table(table, None, Layout(label="knd"))


def test_images_may_stand_in_a_table(tmp_path: Path) -> None:
    images = [np.full((20, 20, 3), i, np.uint8) for i in range(6)]
    data = ImageDataLoaders.from_table(
        {"image": images, "kind": list("ababab")}, image_size=16, batch_size=2
    )
    assert len(next(data.train.epoch(0, 0))) == 2


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match=r"table must be a data frame .*, got int"):
        read_table(3, None, Layout())


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns .* differ in length: \{'a': 1, 'b': 2\}"):
        read_table({"a": ["1.jpg"], "b": ["x", "y"]}, None, Layout())


def test_texts_that_look_like_several_labels_are_mentioned() -> None:
    labels = ["red wet", "red dry", "blue wet", "blue", "red", "blue dry"]
    table = {"image": [f"{i}.jpg" for i in range(6)], "label": labels}
    with pytest.warns(UserWarning, match="one class, such as 'blue dry'; if .* task='multi_label'"):
        read_table(table, None, Layout())
    read_table(table, None, Layout(task=MultiLabel()))


@pytest.mark.parametrize(
    "labels", [["golden retriever", "toy poodle", "pug"], ["red wet", "red dry", "blue wet"]]
)
def test_names_of_several_words_are_not(labels: list[str]) -> None:
    read_table({"image": ["1.jpg", "2.jpg", "3.jpg"], "label": labels}, None, Layout())
