"""Rows of CSV files and data frames: images, their labels, and which are for validation."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finetune import arguments
from finetune.data.images.decode import ImageSource
from finetune.tasks import DEFAULT_TASK, Task
from finetune.tasks.labels import is_empty, is_missing
from finetune.wording import did_you_mean

Columns = Mapping[str, Sequence[Any]]

_INTERCHANGE_METHODS = ("__arrow_c_stream__", "__dataframe__")
"""A table with one of these methods can be read by pyarrow."""

# what a cell may say of a row in the column that marks validation
_VALID_MARKS = frozenset({"1", "1.0", "true", "yes", "valid", "validation", "val"})
_TRAIN_MARKS = frozenset({"", "0", "0.0", "false", "no", "train", "training"})


class Rows(NamedTuple):
    """What the rows of a table say.

    is_valid: which rows are for validation; None where no column says that. names: names of the
    targets, where the names of the columns are those; else None.
    """

    items: list[ImageSource]
    labels: list[Any]
    is_valid: list[bool] | None
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a table mean what.

    image: the column of images; None is the first. label: the column of labels; None is the second;
    several columns are one target each, see `Task.names_of_columns`. valid: the column that marks
    rows for validation; None where there is none. delimiter: what separates several labels in a
    cell.
    """

    image: str | None = None
    label: str | Sequence[str] | None = None
    valid: str | None = None
    task: Task = DEFAULT_TASK
    delimiter: str = " "

    def __post_init__(self) -> None:
        for name, column in (("image_column", self.image), ("valid_column", self.valid)):
            if column is not None:
                arguments.text(name, column)
        if isinstance(self.label, str):
            arguments.text("label_column", self.label)
        elif self.label is not None:
            columns = arguments.sequence(
                "label_column", self.label, "names of columns, or one name"
            )
            if not len(columns):
                raise ValueError("label_column names no column; None is the second column")
        arguments.text("label_delimiter", self.delimiter)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where rows come from, for errors.

    unit: what a row is called there. first: the number that the first row has there.
    """

    name: str
    unit: str
    first: int

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"{self.name}, {self.unit} {row + self.first}"


def read_csv(file: Path, folder: Path, layout: Layout) -> Rows:
    """Reads a CSV file that has a header.

    folder: the one that paths of images are relative to. Raises FileNotFoundError for a file that
    does not exist, and ValueError, with the line, for a cell that can't be read.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no CSV file {str(file)!r}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = list(reader.fieldnames or [])
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} is not in UTF-8: {error}; save it as UTF-8, or pass what "
            "pandas.read_csv(file, encoding=...) gives to from_table"
        ) from error
    columns = {name: [row[name] for row in rows] for name in names}
    # the header is line 1
    origin = _Origin(repr(str(file)), "line", 2)
    return _read_rows(columns, folder, layout, origin)


def read_table(table: Any, folder: Path | None, layout: Layout) -> Rows:
    """Reads a data frame (pandas, polars, pyarrow, ...) or a mapping of column names to lists.

    folder: the one that paths of images are relative to; None leaves them as they are. Raises
    TypeError for what is no table, and ValueError, with the row, for a cell that can't be read.
    """
    columns = dict(_columns_of(table))
    if layout.valid is not None and layout.valid in columns:
        # a missing mark is a row for training; in a CSV file it would be a row that is too short
        marks = ["" if is_empty(cell) else cell for cell in columns[layout.valid]]
        columns[layout.valid] = marks
    return _read_rows(columns, folder, layout, _Origin("the table", "row", 0))


def _columns_of(table: Any) -> Columns:
    """Columns as lists, without a dependency on the library that made the table."""
    names = _column_names(table)
    has_interchange = any(hasattr(table, method) for method in _INTERCHANGE_METHODS)
    if names is None:
        if has_interchange:
            return _columns_through_arrow(table)
        raise TypeError(
            "table must be a data frame (pandas, polars, pyarrow, ...) or a mapping of names to "
            f"lists, got {type(table).__name__}"
        )
    try:
        columns = {str(name): _as_list(table[name]) for name in names}
    except TypeError:  # frames on a GPU or in a data base, whose columns are no lists
        if not has_interchange:
            raise
        return _columns_through_arrow(table)
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of the table differ in length: {lengths}")
    return columns


def _column_names(table: Any) -> Any:
    """The names by which a table gives its columns; None where it does not tell them."""
    if isinstance(table, Mapping):
        return list(table)
    names = getattr(table, "column_names", None)
    if names is not None:  # asked first, because pyarrow's `columns` are no names
        return names
    return getattr(table, "columns", None)


def _columns_through_arrow(table: Any) -> Columns:
    """Columns as lists of a table that speaks an interchange protocol."""
    try:
        import pyarrow
        from pyarrow.interchange import from_dataframe
    except ImportError:
        raise ModuleNotFoundError(
            f"to read a {type(table).__name__}, pyarrow is needed; run pip install pyarrow, or "
            "pass a mapping of names to lists"
        ) from None
    if hasattr(table, "__arrow_c_stream__"):
        arrow_table = pyarrow.table(table)
    else:
        arrow_table = from_dataframe(table)
    columns: dict[str, list[Any]] = arrow_table.to_pydict()
    return columns


def _as_list(column: Any) -> list[Any]:
    """The cells of a column; numbers as Python's own, images as arrays."""
    if getattr(column, "ndim", 1) > 1:  # images, of which tolist would make lists of lists
        return list(column)
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _read_rows(columns: Columns, folder: Path | None, layout: Layout, origin: _Origin) -> Rows:
    image_column, label_columns = _checked_columns(list(columns), layout, origin)
    target_names = layout.task.names_of_columns(label_columns)
    items: list[ImageSource] = []
    labels: list[Any] = []
    marks: list[bool] = []
    for row, image_cell in enumerate(columns[image_column]):
        place = origin.place(row)
        items.append(_read_item(image_cell, folder, place))
        label_cells = [columns[name][row] for name in label_columns]
        labels.append(layout.task.read_label(label_cells, place, layout.delimiter))
        if layout.valid is not None:
            marks.append(_read_mark(columns[layout.valid][row], layout.valid, place))
    is_valid = None if layout.valid is None else marks
    return Rows(items, labels, is_valid, target_names)


def _checked_columns(
    names: Sequence[str], layout: Layout, origin: _Origin
) -> tuple[str, list[str]]:
    """The column of images and the columns of labels.

    Raises ValueError for a table of less than two columns, and for a column that isn't there.
    """
    if len(names) < 2:
        header = "a header and " if origin.unit == "line" else ""
        raise ValueError(
            f"{origin.name} needs {header}two columns, found {list(names)}"
            f"{_other_delimiter_hint(names)}"
        )
    image_column = names[0] if layout.image is None else layout.image
    label_columns = _label_columns(names, layout)
    wanted_columns = [image_column, *label_columns]
    if layout.valid is not None:
        wanted_columns.append(layout.valid)
    for column in wanted_columns:
        if column not in names:
            hint = did_you_mean(str(column), names)
            raise ValueError(f"{origin.name} has no column {column!r}, only {list(names)}; {hint}")
    return image_column, label_columns


def _label_columns(names: Sequence[str], layout: Layout) -> list[str]:
    if layout.label is None:
        return [names[1]]
    if isinstance(layout.label, str):
        return [layout.label]
    return list(layout.label)


def _other_delimiter_hint(names: Sequence[str]) -> str:
    """The way out for a file whose cells are not separated by commas; else an empty text."""
    for delimiter in ";\t|":
        if any(delimiter in name for name in names):
            return (
                f"; its cells are separated by {delimiter!r} instead of ','; pass what "
                f"pandas.read_csv(file, sep={delimiter!r}) gives to from_table"
            )
    return ""


def _read_item(cell: Any, folder: Path | None, place: str) -> ImageSource:
    """The image of a cell: a path, or an image in memory.

    place: where the cell is, for the error. Raises ValueError for an empty cell.
    """
    is_path = isinstance(cell, str | Path)
    # only texts are compared with "": for an array that would compare all pixels
    is_blank = is_path and cell == ""
    # data frames have NaN in empty cells, and no image is a single number
    if is_blank or is_missing(cell) or isinstance(cell, float):
        raise ValueError(f"{place}: image or label is empty")
    if is_path:
        return Path(cell) if folder is None else folder / cell
    image: ImageSource = cell
    return image


def _read_mark(cell: Any, column: str, place: str) -> bool:
    """Whether a cell of the column marks its row for validation.

    place: where the cell is, for the error. Raises ValueError for a text that is no mark.
    """
    mark = str(cell).strip().lower()
    if mark in _VALID_MARKS:
        return True
    if mark in _TRAIN_MARKS:
        return False
    known_marks = ", ".join(sorted(_VALID_MARKS | _TRAIN_MARKS))
    raise ValueError(f"{place}: {column!r} says {cell!r}, which is none of {known_marks}")
