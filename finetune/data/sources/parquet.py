"""Examples from Parquet files that hold the images, as those of Hugging Face's hub do."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

from finetune import arguments
from finetune.data.examples import Examples
from finetune.data.groups import Groups
from finetune.data.images.opening import ImageSource
from finetune.data.images.parquet import ParquetFile, ParquetImage, leaf_of, open_parquet
from finetune.data.sources.datasets import find_column, from_column, in_classes
from finetune.data.sources.lists import from_pairs
from finetune.data.sources.shards import states_of
from finetune.files.names import path_below, shared_folder, spelled
from finetune.files.storage import State
from finetune.tasks import DEFAULT_TASK, Task

SUFFIX = ".parquet"
_BYTES, _PATH = "bytes", "path"
"""Fields of the struct that Hugging Face keeps an image in."""
_METADATA = b"huggingface"
_FILES_AT_ONCE = 8
"""So many files are listed at a time, which is many requests where they are remote."""


@dataclass(frozen=True, slots=True)
class ParquetLayout:
    """How the rows of Parquet files are read.

    image_column, label_column: names; None finds them. classes: names by index, or in the order of
    the model's outputs; None: those that the files know, or else as `from_column` names them. task:
    what the labels are. allow_missing: whether an image without bytes is an error of that image
    alone, when it is read.
    """

    image_column: str | None = None
    label_column: str | None = None
    classes: Sequence[str] | None = None
    task: Task = DEFAULT_TASK
    allow_missing: bool = False

    def __post_init__(self) -> None:
        for name in ("image_column", "label_column"):
            if getattr(self, name) is not None:
                arguments.text(name, getattr(self, name))
        if self.classes is not None:
            arguments.sequence("classes", self.classes, "class names")


class _Columns(NamedTuple):
    """Where the parts of an example are.

    image: the column or field with the content, such as "image.bytes". path: the field with the
    images' paths, such as "image.path"; None where there is none. label: the column of labels.
    names: of the classes by index, if the file knows them.
    """

    image: str
    path: str | None
    label: str
    names: tuple[str, ...] | None


class _Rows(NamedTuple):
    """The rows of a file. paths: of the images, as the file says, or None. groups: their names."""

    file: ParquetFile
    names: tuple[str, ...] | None
    labels: list[Any]
    paths: list[str | None]
    groups: list[Any]


def from_parquet(
    files: Sequence[str],
    layout: ParquetLayout,
    groups: Groups | None = None,
    *,
    folder: str | None = None,
    classes_of_training: tuple[str, ...] | None = None,
) -> Examples:
    """Examples from the rows of Parquet files, in their order; no image is read.

    files: absolute paths, or addresses. groups: the name of a column, or see `groups_of`. folder:
    that files are called relative to; None is the one that all of them are in.
    classes_of_training: the examples are for validation, and their classes among these. Raises
    FileNotFoundError for a file that is not there, and ValueError for one that is damaged, for
    columns that it does not have, for rows without a label or an image, and for labels that the
    task can't use.
    """
    require_pyarrow()
    states = states_of(files, "Parquet file")
    schema = open_parquet(files[0], states[0]).schema_arrow
    layout = _found_in(files[0], schema, layout)
    group_column = groups if isinstance(groups, str) and groups in schema.names else None

    def read(path: str, state: State) -> _Rows:
        return _read_rows(path, state, layout, group_column)

    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="parquet") as threads:
        rows_of_files = list(threads.map(read, files, states))
    _check_names(rows_of_files)
    images = _images_of(rows_of_files, shared_folder(files) if folder is None else folder)
    if not images:
        raise ValueError(f"there is no row in {files[0]!r}, nor in {len(files) - 1} more files")
    labels: list[Any] = []
    group_names: list[Any] = []
    for rows in rows_of_files:
        labels.extend(rows.labels)
        group_names.extend(rows.groups)
    examples = _examples(images, labels, layout, rows_of_files[0].names, classes_of_training)
    return examples.in_groups(groups if group_column is None else group_names)


def _examples(
    images: list[ImageSource],
    labels: list[Any],
    layout: ParquetLayout,
    file_names: tuple[str, ...] | None,
    classes_of_training: tuple[str, ...] | None,
) -> Examples:
    """Examples in the classes of the training data, where these are for validation.

    file_names: of the classes by index, as the files know them.
    """
    task = layout.task
    are_of_training = classes_of_training is not None
    if not task.exclusive:
        if file_names is not None:
            labels = [_named(label, file_names) for label in labels]
        classes = classes_of_training or layout.classes or file_names
        return from_pairs(images, labels, classes, task, of_training=are_of_training)
    assert layout.label_column is not None
    if all(isinstance(label, str) for label in labels):
        classes = classes_of_training or layout.classes
        return from_pairs(images, labels, classes, task, of_training=are_of_training)
    # indices mean what their own file says, which need not be the order of another one
    classes = layout.classes or file_names or classes_of_training
    examples = from_column(images, layout.label_column, labels, classes, task)
    return examples if classes_of_training is None else in_classes(examples, classes_of_training)


def _named(label: Any, names: Sequence[str]) -> Any:
    """The names of several class indices; other labels as they are."""
    if not isinstance(label, list) or not all(isinstance(index, int) for index in label):
        return label
    for index in label:
        if not 0 <= index < len(names):
            raise ValueError(f"label {index} in {label} has no name: there are {len(names)}")
    return [names[index] for index in label]


def are_parquet(files: Any) -> bool:
    """Whether a path, a pattern, or each of a list of them names Parquet files."""
    if isinstance(files, list | tuple):
        return len(files) > 0 and all(map(are_parquet, files))
    return isinstance(files, str | os.PathLike) and str(files).lower().endswith(SUFFIX)


def require_pyarrow() -> None:
    """Raises ModuleNotFoundError, which says what to install, where pyarrow is not."""
    if find_spec("pyarrow") is None:
        raise ModuleNotFoundError(
            "Parquet files are read by pyarrow; run pip install 'finetune-vision[parquet]'",
            name="pyarrow",
        )


# --- columns


def _found_in(path: str, schema: Any, layout: ParquetLayout) -> ParquetLayout:
    """The layout with the names of both columns. Raises ValueError where they can't be found."""
    _check_columns(path, schema, layout)
    types = {name: _type_of(name, schema) for name in schema.names}
    where = f"the Parquet file {path!r}"
    image_column = find_column(types, layout.image_column, "Image", "image", where)
    others = [name for name in types if name != image_column]
    label_column = layout.label_column
    if label_column is None and len(others) == 1:
        (label_column,) = others
    label_column = find_column(types, label_column, "ClassLabel", "label", where)
    return replace(layout, image_column=image_column, label_column=label_column)


def _check_columns(path: str, schema: Any, layout: ParquetLayout) -> None:
    """Raises ValueError for a column that the layout names and the file does not have."""
    for name in (layout.image_column, layout.label_column):
        if name is not None and name not in schema.names:
            raise ValueError(
                f"the Parquet file {path!r} has no column {name!r}; there are "
                f"{', '.join(schema.names)}"
            )


def _type_of(name: str, schema: Any) -> str:
    """ "Image" or "ClassLabel", as Hugging Face calls them, or another word for other columns."""
    feature = _features(schema).get(name)
    if isinstance(feature, dict) and isinstance(feature.get("_type"), str):
        stated: str = feature["_type"]
        return stated
    return "other" if _content_leaf(name, schema) is None else "Image"


def _features(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face's metadata say of the columns; nothing where there are no such metadata."""
    try:
        metadata = json.loads((schema.metadata or {})[_METADATA])
        features = metadata["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(name: str, schema: Any) -> tuple[str, ...] | None:
    """The names of the classes by index, of a column of indices or of lists of them."""
    feature = _features(schema).get(name)
    if isinstance(feature, list) and len(feature) == 1:  # how older versions wrote a list
        (feature,) = feature
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    return tuple(map(str, names)) if names else None


def _content_leaf(name: str, schema: Any) -> str | None:
    """The column or the field of it that can hold the content of image files."""
    from pyarrow import types

    kind = schema.field(name).type
    if _is_binary(kind):
        return name
    if types.is_struct(kind):
        for field in kind:
            if field.name == _BYTES and _is_binary(field.type):
                return f"{name}.{_BYTES}"
    return None


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    is_binary: bool = (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_null(kind)  # of a file without any image
    )
    return is_binary


def _columns_of(path: str, schema: Any, layout: ParquetLayout) -> _Columns:
    """The columns in one of the files. Raises ValueError where they are not there."""
    image, label = layout.image_column, layout.label_column
    assert image is not None
    assert label is not None
    _check_columns(path, schema, layout)
    content = _content_leaf(image, schema)
    if content is None:
        raise ValueError(
            f"column {image!r} of {path!r} holds no image files but {schema.field(image).type}; "
            f"an image is a binary, or a struct with the field {_BYTES!r}. Of paths, pass what "
            "pyarrow.parquet.read_table(file) gives to from_table"
        )
    path_leaf = None
    if content != image and any(field.name == _PATH for field in schema.field(image).type):
        path_leaf = f"{image}.{_PATH}"
    return _Columns(content, path_leaf, label, _class_names(label, schema))


# --- rows


def _read_rows(path: str, state: State, layout: ParquetLayout, group_column: str | None) -> _Rows:
    """Reads all of a file but the images."""
    parquet = open_parquet(path, state)
    columns = _columns_of(path, parquet.schema_arrow, layout)
    starts = [0]
    for group in range(parquet.num_row_groups):
        starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
    file = ParquetFile(path, state, columns.image, tuple(starts[:-1]))
    if not layout.allow_missing:
        _check_contents(file, columns, parquet.metadata)
    labels = _column(parquet, columns.label)
    if None in labels:
        raise ValueError(
            f"row {labels.index(None)} of {path!r} has no label in {columns.label!r}, as "
            f"{labels.count(None)} of {len(labels)}; leave such rows out"
        )
    paths = [None] * len(labels) if columns.path is None else _column(parquet, columns.path)
    groups = [] if group_column is None else _column(parquet, group_column)
    return _Rows(file, columns.names, labels, paths, groups)


def _column(parquet: Any, leaf: str) -> list[Any]:
    """All values of a column, or of a field of one."""
    table = parquet.read(columns=[leaf], use_threads=False)
    return list(leaf_of(table, leaf).to_pylist())


def _check_contents(file: ParquetFile, columns: _Columns, metadata: Any) -> None:
    """Raises ValueError where the file says that it has rows without an image."""
    missing_of_group = []
    for group in range(metadata.num_row_groups):
        missing_of_group.append(_nulls_in(metadata, group, columns.image))
    missing = sum(missing_of_group)
    if missing == 0:
        return
    if missing == metadata.num_rows and columns.path is not None:
        raise ValueError(
            f"{file.path!r} has only the paths of its images: {columns.image!r} is empty. Write "
            "the images into it, as push_to_hub of Hugging Face's data sets does; or read it by "
            "datasets.load_dataset, and pass the data set to from_dataset"
        )
    group = next(group for group, count in enumerate(missing_of_group) if count)
    row = file.starts[group]
    while file.read(row) is not None:
        row += 1
    raise ValueError(
        f"{missing} of {metadata.num_rows} rows of {file.path!r} have no image in "
        f"{columns.image!r}, the first is row {row}; leave such rows out, or pass on_error='skip'"
    )


def _nulls_in(metadata: Any, group_number: int, leaf: str) -> int:
    """How many values of a row group are missing, as far as the file says."""
    group = metadata.row_group(group_number)
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema != leaf:
            continue
        if chunk.physical_type != "BYTE_ARRAY":  # the type of a column without any value
            return int(group.num_rows)
        statistics = chunk.statistics
        has_count = statistics is not None and statistics.has_null_count
        return int(statistics.null_count) if has_count else 0
    return 0


def _check_names(rows_of_files: Sequence[_Rows]) -> None:
    """Raises ValueError where one file calls its classes otherwise than another one."""
    first = rows_of_files[0]
    for rows in rows_of_files[1:]:
        if rows.names != first.names:
            raise ValueError(
                f"{rows.file.path!r} has the classes {rows.names}, and {first.file.path!r} has "
                f"{first.names}; the same index would mean two things"
            )


def _images_of(rows_of_files: Sequence[_Rows], folder: str) -> list[ImageSource]:
    """The images, in the order of the rows.

    One is called by its path, where no other image has that; or else by its file, relative to the
    folder, and its row.
    """
    counts: Counter[str] = Counter()
    for rows in rows_of_files:
        counts.update(path for path in rows.paths if path)
    images: list[ImageSource] = []
    for rows in rows_of_files:
        file_name = path_below(rows.file.path, folder)
        for row, path in enumerate(rows.paths):
            name = spelled(path) if path and counts[path] == 1 else f"{file_name}/row {row}"
            images.append(ParquetImage(rows.file, row, name))
    return images
