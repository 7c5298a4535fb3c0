"""Rows of a table: a column of images, one or several of labels, one that marks validation."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.images.decode import ImageSource
from finetune.tasks import DEFAULT_TASK, Task
from finetune.tasks.labels import is_empty, is_missing
from finetune.wording import did_you_mean

Columns = Mapping[str, Sequence[Any]]

_INTERCHANGE_METHODS = ("__arrow_c_stream__", "__dataframe__")
_VALID_MARKS = frozenset({"1", "1.0", "true", "yes", "valid", "validation", "val"})
_TRAIN_MARKS = frozenset({"", "0", "0.0", "false", "no", "train", "training"})


class Rows(NamedTuple):
    """What a table says. names: of the targets, where the columns name them, else None."""

    items: list[ImageSource]
    labels: list[Any]
    is_valid: list[bool] | None
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns mean what; None is the first column for images, the second for labels.

    label: one column, or several of which each is a target, see `Task.names_of_columns`. valid: a
    column that marks validation rows. delimiter: between several labels of an image.
    """

    image: str | None = None
    label: str | Sequence[str] | None = None
    valid: str | None = None
    task: Task = DEFAULT_TASK
    delimiter: str = " "

    def __post_init__(self) -> None:
        if not self.delimiter:
            raise ValueError("label_delimiter must be at least one character, got ''")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where rows come from, for errors. unit, first: how rows are counted there."""

    name: str
    unit: str
    first: int

    def place(self, row: int) -> str:
        return f"{self.name}, {self.unit} {row + self.first}"


def read_csv(file: Path, folder: Path, layout: Layout) -> Rows:
    """Paths, labels and marks of validation from a CSV file with a header.

    folder: what the paths are relative to. Raises FileNotFoundError, and ValueError with the line
    for what can't be read.
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
    return _read_rows(columns, folder, layout, _Origin(repr(str(file)), "line", 2))


def read_table(table: Any, folder: Path | None, layout: Layout) -> Rows:
    """The same from a data frame of pandas, polars, pyarrow, ..., or a mapping of lists."""
    columns = _columns_of(table)
    if layout.valid is not None and layout.valid in columns:
        # a missing mark is a row for training; in a file it would be a row that is too short
        marks = ["" if is_empty(cell) else cell for cell in columns[layout.valid]]
        columns = {**columns, layout.valid: marks}
    return _read_rows(columns, folder, layout, _Origin("the table", "row", 0))


def _columns_of(table: Any) -> Columns:
    """Columns as lists, without a dependency on the library that made the table."""
    names: Any = None
    if isinstance(table, Mapping):
        names = list(table)
    else:
        names = getattr(table, "column_names", None)  # pyarrow's `columns` are no names
        if names is None:
            names = getattr(table, "columns", None)
    speaks_protocol = any(hasattr(table, method) for method in _INTERCHANGE_METHODS)
    if names is None and speaks_protocol:
        return _through_arrow(table)
    if names is None:
        raise TypeError(
            "a table is a data frame (pandas, polars, pyarrow, ...) or a mapping of names to "
            f"lists, got {type(table).__name__}"
        )
    try:
        columns = {str(name): _as_list(table[name]) for name in names}
    except TypeError:  # frames on a GPU or in a data base, whose columns are no lists
        if not speaks_protocol:
            raise
        return _through_arrow(table)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of the table differ in length: {lengths}")
    return columns


def _through_arrow(table: Any) -> Columns:
    """For tables that do not name their columns but speak an interchange protocol."""
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
    if getattr(column, "ndim", 1) > 1:  # images, which stay arrays
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
    for row in range(len(columns[image_column])):
        place = origin.place(row)
        items.append(_read_item(columns[image_column][row], folder, place))
        cells = [columns[name][row] for name in label_columns]
        labels.append(layout.task.read_label(cells, place, layout.delimiter))
        if layout.valid is not None:
            marks.append(_read_mark(columns[layout.valid][row], layout.valid, place))
    is_valid = None if layout.valid is None else marks
    return Rows(items, labels, is_valid, target_names)


def _checked_columns(
    names: Sequence[str], layout: Layout, origin: _Origin
) -> tuple[str, list[str]]:
    """The columns of images and of labels. Raises ValueError for one that is not there."""
    if len(names) < 2:
        header = "a header and " if origin.unit == "line" else ""
        raise ValueError(
            f"{origin.name} needs {header}two columns, found {list(names)}"
            f"{_other_delimiter_hint(names)}"
        )
    image_column = names[0] if layout.image is None else layout.image
    label_columns = [names[1]] if layout.label is None else layout.label
    label_columns = [label_columns] if isinstance(label_columns, str) else list(label_columns)
    for column in (image_column, *label_columns, layout.valid):
        if column is not None and column not in names:
            hint = did_you_mean(str(column), names)
            raise ValueError(f"{origin.name} has no column {column!r}, only {list(names)}; {hint}")
    return image_column, label_columns


def _other_delimiter_hint(names: Sequence[str]) -> str:
    """What to do about a file whose cells no comma separates."""
    for delimiter in ";\t|":
        if any(delimiter in name for name in names):
            return (
                f"; its cells are separated by {delimiter!r} instead of ','; pass what "
                f"pandas.read_csv(file, sep={delimiter!r}) gives to from_table"
            )
    return ""


def _read_item(cell: Any, folder: Path | None, place: str) -> ImageSource:
    if isinstance(cell, str | Path):
        if cell == "":
            raise ValueError(f"{place}: image or label is empty")
        return Path(cell) if folder is None else folder / cell
    if is_missing(cell) or isinstance(cell, float):
        raise ValueError(f"{place}: image or label is empty")
    image: ImageSource = cell
    return image


def _read_mark(cell: Any, column: str, place: str) -> bool:
    mark = str(cell).strip().lower()
    if mark not in _VALID_MARKS | _TRAIN_MARKS:
        known = ", ".join(sorted(_VALID_MARKS | _TRAIN_MARKS))
        raise ValueError(f"{place}: {column!r} says {cell!r}, which is none of {known}")
    return mark in _VALID_MARKS
