"""Examples from a table: a column of images, one or several of labels, one of the split."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.images.decode import ImageSource
from finetune.tasks.labels import is_missing, word
from finetune.tasks.task import Task
from finetune.wording import did_you_mean

Columns = Mapping[str, Sequence[Any]]


class Rows(NamedTuple):
    """names: of the targets of a regression, else None."""

    items: list[ImageSource]
    labels: list[Any]
    is_valid: list[bool] | None
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns mean what; None is the first column for images, the second for labels.

    label: of a regression, several columns may be targets. delimiter: between the labels of one
    image where the task is "multi_label".
    """

    image: str | None = None
    label: str | Sequence[str] | None = None
    valid: str | None = None
    task: Task = "single_label"
    delimiter: str = " "

    def __post_init__(self) -> None:
        if not self.delimiter:
            raise ValueError("label_delimiter must be at least one character, got ''")


def read_csv(file: Path, folder: Path, layout: Layout) -> Rows:
    """Paths, labels and marks of validation from a CSV file with a header."""
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
    return _read(columns, folder, layout, repr(str(file)), "line", 2)


def read_table(table: Any, folder: Path | None, layout: Layout) -> Rows:
    """The same from a data frame of pandas, polars, pyarrow, ..., or a mapping of lists."""
    return _read(_columns(table), folder, layout, "the table", "row", 0)


def _columns(table: Any) -> Columns:
    """Columns as lists, without a dependency on the library that made the table."""
    names = getattr(table, "column_names", None)  # pyarrow's `columns` are no names
    names = getattr(table, "columns", None) if names is None else names
    if isinstance(table, Mapping):
        names = list(table)
    if names is None and any(hasattr(table, f"__{way}__") for way in _INTERCHANGE):
        return _through_arrow(table)
    if names is None:
        raise TypeError(
            "a table is a data frame (pandas, polars, pyarrow, ...) or a mapping of names to "
            f"lists, got {type(table).__name__}"
        )
    try:
        found = {str(name): _list(table[name]) for name in names}
    except TypeError:  # frames on a GPU or in a data base, whose columns are no lists
        if not any(hasattr(table, f"__{way}__") for way in _INTERCHANGE):
            raise
        return _through_arrow(table)
    if len({len(values) for values in found.values()}) > 1:
        lengths = {name: len(values) for name, values in found.items()}
        raise ValueError(f"the columns of the table differ in length: {lengths}")
    return found


_INTERCHANGE = ("arrow_c_stream", "dataframe")


def _through_arrow(table: Any) -> Columns:
    """For tables that have no names of columns but speak a protocol."""
    try:
        import pyarrow
        from pyarrow.interchange import from_dataframe
    except ImportError:
        raise ModuleNotFoundError(
            f"to read a {type(table).__name__}, pyarrow is needed; run pip install pyarrow, or "
            "pass a mapping of names to lists"
        ) from None
    has_stream = hasattr(table, "__arrow_c_stream__")
    arrow = pyarrow.table(table) if has_stream else from_dataframe(table)
    found: dict[str, list[Any]] = arrow.to_pydict()
    return found


def _list(column: Any) -> list[Any]:
    if getattr(column, "ndim", 1) > 1:  # images, which stay arrays
        return list(column)
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def _read(
    columns: Columns, folder: Path | None, layout: Layout, what: str, unit: str, first: int
) -> Rows:
    """what: the table's name for errors. unit, first: how its rows are counted there."""
    names = list(columns)
    if len(names) < 2:
        header = "a header and " if unit == "line" else ""
        raise ValueError(
            f"{what} needs {header}two columns, found {names}{_other_delimiter(names)}"
        )
    image = names[0] if layout.image is None else layout.image
    label = names[1] if layout.label is None else layout.label
    targets = [label] if isinstance(label, str) else list(label)
    if layout.task != "regression" and len(targets) != 1:
        raise ValueError(
            f"several label columns are for task='regression', got {targets}; several labels of "
            "an image stand in one column, with label_delimiter= between them"
        )
    for column in (image, *targets, layout.valid):
        if column is not None and column not in names:
            hint = did_you_mean(str(column), names)
            raise ValueError(f"{what} has no column {column!r}, only {names}; {hint}")
    rows = range(len(columns[image]))
    where = [f"{what}, {unit} {i + first}" for i in rows]
    items = [_item(columns[image][i], folder, where[i]) for i in rows]
    labels = [_label([columns[name][i] for name in targets], layout, where[i]) for i in rows]
    marks = None
    if layout.valid is not None:
        cells = columns[layout.valid]
        if unit == "row":  # what is missing in a file is a row that is too short
            cells = ["" if _is_empty(cell) else cell for cell in cells]
        marks = [_mark(cells[i], layout.valid, where[i]) for i in rows]
    return Rows(items, labels, marks, tuple(targets) if layout.task == "regression" else None)


def _other_delimiter(names: list[str]) -> str:
    """What to do about a file of cells that no comma separates."""
    found = next((mark for name in names for mark in ";\t|" if mark in name), None)
    if found is None:
        return ""
    return (
        f"; its cells are separated by {found!r} instead of ','; pass what "
        f"pandas.read_csv(file, sep={found!r}) gives to from_table"
    )


def _is_empty(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def _item(cell: Any, folder: Path | None, where: str) -> ImageSource:
    if isinstance(cell, str | Path):
        if cell == "":
            raise ValueError(f"{where}: image or label is empty")
        return Path(cell) if folder is None else folder / cell
    if is_missing(cell) or isinstance(cell, float):
        raise ValueError(f"{where}: image or label is empty")
    image: ImageSource = cell
    return image


def _label(cells: list[Any], layout: Layout, where: str) -> Any:
    """A class name, a list of them, or a list of numbers."""
    (cell, *_) = cells
    if layout.task == "multi_label":
        is_text = isinstance(cell, str)  # numpy's, which has a `tolist`, too
        if isinstance(cell, list | tuple | set) or (hasattr(cell, "tolist") and not is_text):
            return list(cell)
        words = [] if _is_empty(cell) else str(cell).split(layout.delimiter)
        return [word.strip() for word in words if word.strip()]
    if any(map(_is_empty, cells)):
        raise ValueError(f"{where}: image or label is empty")
    if layout.task == "single_label":
        return word(cell, where).strip()
    try:
        numbers = [float(value) for value in cells]
    except (TypeError, ValueError):
        raise ValueError(f"{where}: a target is a number, got {cells}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: a target is a finite number, got {cells}")
    return numbers


def _mark(cell: Any, column: str, where: str) -> bool:
    mark = str(cell).strip().lower()
    if mark not in _VALID | _TRAIN:
        known = ", ".join(sorted(_VALID | _TRAIN))
        raise ValueError(f"{where}: {column!r} says {cell!r}, which is none of {known}")
    return mark in _VALID


_VALID = frozenset({"1", "1.0", "true", "yes", "valid", "validation", "val"})
_TRAIN = frozenset({"", "0", "0.0", "false", "no", "train", "training"})
