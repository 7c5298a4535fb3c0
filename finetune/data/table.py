"""Examples from a CSV file with a header: a column of paths, one of labels, one of the split."""

import csv
from pathlib import Path

from finetune.data.decode import ImageSource


def read_csv(
    file: Path,
    folder: Path,
    image_column: str | None,
    label_column: str | None,
    valid_column: str | None,
) -> tuple[list[ImageSource], list[str], list[bool] | None]:
    """Paths, labels and marks of validation from a CSV file with a header."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no CSV file {str(file)!r}")
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = list(reader.fieldnames or [])
        rows = list(reader)
    if len(columns) < 2:
        raise ValueError(f"{str(file)!r} needs a header and two columns, found {columns}")
    image, label = image_column or columns[0], label_column or columns[1]
    for column in (image, label, valid_column):
        if column is not None and column not in columns:
            raise ValueError(f"{str(file)!r} has no column {column!r}, only {columns}")
    marks = []
    for number, row in enumerate(rows, start=2):
        if not row[image] or not row[label]:
            raise ValueError(f"{str(file)!r}, line {number}: image or label is empty")
        if valid_column is not None:
            mark = str(row[valid_column]).strip().lower()
            if mark not in _VALID | _TRAIN:
                known = ", ".join(sorted(_VALID | _TRAIN))
                raise ValueError(
                    f"{str(file)!r}, line {number}: {valid_column!r} says {row[valid_column]!r}, "
                    f"which is none of {known}"
                )
            marks.append(mark in _VALID)
    items: list[ImageSource] = [folder / row[image] for row in rows]
    return items, [row[label] for row in rows], marks if valid_column is not None else None


_VALID = frozenset({"1", "1.0", "true", "yes", "valid", "validation", "val"})
_TRAIN = frozenset({"", "0", "0.0", "false", "no", "train", "training"})
