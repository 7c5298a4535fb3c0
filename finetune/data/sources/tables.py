"""Rows of CSV files and data frames: images, their labels, and which are for validation."""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from finetune import arguments
from finetune.data.groups import group_name
from finetune.data.images.opening import ImageSource, image_extensions
from finetune.data.sources.marks import is_marked
from finetune.tasks import DEFAULT_TASK, Task
from finetune.tasks.labels import is_empty
from finetune.wording import counted, did_you_mean, warn

Columns = Mapping[str, Sequence[Any]]

_CELLS_TRIED = 5
"""So many of a column's cells are looked at to tell whether it holds images."""

_INTERCHANGE_METHODS = ("__arrow_c_stream__", "__dataframe__")
"""A table with one of these methods can be read by pyarrow."""


class Rows(NamedTuple):
    """What the rows of a table say.

    is_valid: which rows are for validation; None where no column says that. names: names of the
    targets, where the names of the columns are those; else None. groups: the group of each row;
    None where no column says that.
    """

    items: list[ImageSource]
    labels: list[Any]
    is_valid: list[bool] | None
    names: tuple[str, ...] | None
    groups: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a table mean what.

    image: the column of images; None finds it: the first one whose cells are images or name them.
    label: the column of labels; None is the one after that of the images, or else the only other
    one; several columns are one target each, see `Task.names_of_columns`. valid: the column that
    marks rows for validation; None where there is none. delimiter: what separates several labels
    in a cell. group: the column of groups; None where there is none.
    """

    image: str | None = None
    label: str | Sequence[str] | None = None
    valid: str | None = None
    task: Task = DEFAULT_TASK
    delimiter: str = " "
    group: str | None = None

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

    unit: what a row is called there. numbers: the number that each row has there.
    """

    name: str
    unit: str
    numbers: Sequence[int]

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"{self.name}, {self.unit} {self.numbers[row]}"


def read_csv(file: Path, folder: Path, layout: Layout) -> Rows:
    """Reads a CSV file that has a header.

    folder: the one that paths of images are relative to. Raises FileNotFoundError for a file that
    does not exist, IsADirectoryError for a folder in its place, and ValueError, with the line, for
    a row that has another number of cells than the header, and for a cell that can't be read.
    """
    if file.is_dir():
        raise IsADirectoryError(
            f"{str(file)!r} is a folder; the CSV file comes first, and folder= says where the "
            "images are"
        )
    if not file.is_file():
        raise FileNotFoundError(f"there is no CSV file {str(file)!r}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header, rows, lines = _read_cells(csv.reader(stream))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} is not in UTF-8: {error}; save it as UTF-8, or pass what "
            "pandas.read_csv(file, encoding=...) gives to from_table"
        ) from error
    origin = _Origin(repr(str(file)), "line", lines)
    _check_header(header, folder, origin)
    for row, cells in enumerate(rows):
        if len(cells) != len(header):
            raise ValueError(_wrong_cell_count(cells, header, layout, origin.place(row)))
    columns = {}
    for number, name in enumerate(header):
        columns[name] = [cells[number] for cells in rows]
    return _read_rows(columns, folder, layout, origin)


def _read_cells(reader: Any) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the cells of each row, and the line that each row ends on; no empty lines.

    reader: of `csv`.
    """
    header: list[str] = next(reader, [])
    rows: list[list[str]] = []
    lines: list[int] = []
    for cells in reader:
        if cells:
            rows.append(cells)
            lines.append(reader.line_num)
    return header, rows, lines


def _check_header(header: Sequence[str], folder: Path, origin: _Origin) -> None:
    """Raises ValueError for a header that is none, but the first image, and for repeated names."""
    for cell in header:
        if _is_image_path(cell, folder):
            raise ValueError(
                f"{origin.name} has no header: its first line names the image {cell!r}; put a line "
                "with the names of the columns above it, such as image,label"
            )
    for name, count in Counter(header).items():
        if count > 1:
            raise ValueError(
                f"{origin.name} has {count} columns called {name!r}; give each a name of its own"
            )


def _is_image_path(cell: Any, folder: Path | None) -> bool:
    """Whether a cell names an image, by its ending or because there is such a file."""
    if not isinstance(cell, str | Path) or not str(cell).strip():
        return False
    if os.path.splitext(cell)[1].lower() in image_extensions():
        return True
    path = Path(cell) if folder is None else folder / cell
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long or has a null character
        return False


def _wrong_cell_count(
    cells: Sequence[str], header: Sequence[str], layout: Layout, place: str
) -> str:
    """The error of a row that is longer or shorter than the header, with the likely reason."""
    problem = f"{place} has {counted(len(cells), 'cell')} and the header {len(header)}"
    if len(cells) < len(header):
        return f"{problem}; write an empty cell as two commas, or complete the row"
    if layout.delimiter == ",":
        return (
            f"{problem}; label_delimiter=',' is what separates the cells, too: write the labels of "
            'an image in quotes, "red,wet", or separate them by something else'
        )
    return f'{problem}; write a text with a comma in quotes, "like, this"'


def read_table(table: Any, folder: Path | None, layout: Layout) -> Rows:
    """Reads a data frame (pandas, polars, pyarrow, ...) or a mapping of column names to lists.

    folder: the one that paths of images are relative to; None leaves them as they are. Raises
    TypeError for what is no table, and ValueError, with the row, for a cell that can't be read.
    """
    columns = _columns_of(table)
    row_count = max(map(len, columns.values()), default=0)
    return _read_rows(columns, folder, layout, _Origin("the table", "row", range(row_count)))


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
    image_column, label_columns = _checked_columns(columns, folder, layout, origin)
    target_names = layout.task.names_of_columns(label_columns)
    items: list[ImageSource] = []
    labels: list[Any] = []
    marks: list[bool] = []
    groups: list[str] = []
    for row, image_cell in enumerate(columns[image_column]):
        place = origin.place(row)
        items.append(_read_item(image_cell, folder, place))
        label_cells = [columns[name][row] for name in label_columns]
        labels.append(layout.task.read_label(label_cells, place, layout.delimiter))
        if layout.valid is not None:
            mark = columns[layout.valid][row]
            marks.append(is_marked(mark, f"{place}, column {layout.valid!r}"))
        if layout.group is not None:
            groups.append(group_name(columns[layout.group][row], f"{place}, {layout.group!r}"))
    if layout.task.exclusive:
        _notice_several_labels(labels, layout.delimiter, origin)
    is_valid = None if layout.valid is None else marks
    return Rows(items, labels, is_valid, target_names, None if layout.group is None else groups)


def _notice_several_labels(labels: Sequence[str], delimiter: str, origin: _Origin) -> None:
    """Says that what are taken for names of classes look like several labels each.

    That is so where most names consist of parts, and there are fewer parts than names.
    """
    names = set(labels)
    parts_of = {name: name.split(delimiter) for name in names}
    composed = [name for name, parts in parts_of.items() if len(parts) > 1]
    parts = {part for name in names for part in parts_of[name]}
    if len(composed) > len(names) / 2 and len(parts) < len(names):
        example = min(composed)
        warn(
            f"{origin.name}: each text of the labels is taken as one class, such as {example!r}; "
            f"if these are several labels, separated by {delimiter!r}, pass task='multi_label'"
        )


def _checked_columns(
    columns: Columns, folder: Path | None, layout: Layout, origin: _Origin
) -> tuple[str, list[str]]:
    """The column of images and the columns of labels.

    Raises ValueError for a table of less than two columns, for a column that isn't there, and for
    columns that can't be told.
    """
    names = list(columns)
    if len(names) < 2:
        header = "a header and " if origin.unit == "line" else ""
        raise ValueError(
            f"{origin.name} needs {header}two columns, found {names}{_other_delimiter_hint(names)}"
        )
    label_columns = _named_label_columns(layout)
    for column in (layout.image, layout.valid, layout.group, *label_columns):
        if column is not None and column not in names:
            hint = did_you_mean(str(column), names)
            raise ValueError(f"{origin.name} has no column {column!r}, only {names}; {hint}")
    image_column = layout.image
    if image_column is None:
        other_uses = {layout.valid, layout.group, *label_columns}
        image_column = _find_image_column(columns, other_uses, folder, origin)
    if not label_columns:
        label_columns = [_find_label_column(names, image_column, layout, origin)]
    return image_column, label_columns


def _named_label_columns(layout: Layout) -> list[str]:
    """The columns of labels that the user names."""
    if layout.label is None:
        return []
    if isinstance(layout.label, str):
        return [layout.label]
    return list(layout.label)


def _find_image_column(
    columns: Columns, other_uses: Set[str | None], folder: Path | None, origin: _Origin
) -> str:
    """The first column, or else the only one, whose first cells are images or name images.

    other_uses: columns that hold something else. Raises ValueError where there is no such column,
    and where there are several of which none is the first.
    """
    image_columns = []
    for name, cells in columns.items():
        if name in other_uses:
            continue
        if all(_is_image(cell, folder) for cell in cells[:_CELLS_TRIED]):
            image_columns.append(name)
    if image_columns and (len(image_columns) == 1 or image_columns[0] == next(iter(columns))):
        return image_columns[0]
    which_do = f"{image_columns} all do" if image_columns else "none does"
    where = "" if folder is None else f" below {str(folder)!r}"
    raise ValueError(
        f"which column of {origin.name} names the images{where}? {which_do}, of {list(columns)}; "
        "pass image_column= and label_column=, and the folder that the paths are relative to"
    )


def _is_image(cell: Any, folder: Path | None) -> bool:
    """Whether a cell holds an image or names one; an empty cell may be one."""
    if is_empty(cell):
        return True
    if isinstance(cell, str | Path):
        return _is_image_path(cell, folder)
    if isinstance(cell, Image.Image | bytes | Mapping) or hasattr(cell, "read"):
        return True
    return getattr(cell, "ndim", 0) >= 2  # several labels of an image are an array of one dimension


def _find_label_column(
    names: Sequence[str], image_column: str, layout: Layout, origin: _Origin
) -> str:
    """The column after that of the images, or else the only other one."""
    other_uses = (image_column, layout.valid, layout.group)
    candidates = [name for name in names if name not in other_uses]
    behind = [name for name in candidates if names.index(name) > names.index(image_column)]
    if behind:
        return behind[0]
    if len(candidates) == 1:
        return candidates[0]
    raise ValueError(
        f"which column of {origin.name} holds the labels? pass label_column=, one of {candidates}"
    )


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
    if is_empty(cell):
        raise ValueError(f"{place} names no image; fill the cell or leave the row out")
    if isinstance(cell, int | float):
        raise ValueError(f"{place}: an image is a path or an image in memory, got {cell!r}")
    if isinstance(cell, str | Path):
        return _joined(str(cell), folder)
    image: ImageSource = cell
    return image


def _joined(path: str, folder: Path | None) -> str:
    """The path below a folder as `Path` spells it, in a fifth of the time that `Path` takes."""
    joined = path if folder is None else os.path.join(folder, path)
    is_plain = os.sep == "/" and "//" not in joined and "./" not in joined
    if is_plain and not joined.endswith(("/", "/.")):
        return joined
    return str(Path(joined))
