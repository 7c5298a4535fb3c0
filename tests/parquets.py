"""Parquet files for tests: images as Hugging Face's hub keeps them, written by pyarrow alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet


def image(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    """A cell of an image."""
    return {"bytes": content, "path": path}


def class_label(names: Sequence[str]) -> dict[str, Any]:
    """What Hugging Face's metadata say of a column of class indices."""
    return {"names": list(names), "_type": "ClassLabel"}


def write_parquet(
    path: Path,
    columns: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    rows_per_group: int = 4,
) -> Path:
    """A Parquet file of these columns, with Hugging Face's metadata if there are features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(dict(columns))
    if features is not None:
        metadata = json.dumps({"info": {"features": dict(features)}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_folder_as_parquet(photos: Path, folder: Path, count: int, rows_per_group: int = 4) -> str:
    """The images below a folder, divided over so many files; returns a pattern of them."""
    files = sorted(photos.rglob("*.jpg"))
    names = sorted({file.parent.name for file in files})
    share = -(-len(files) // count)
    for number in range(count):
        part = files[number * share : (number + 1) * share]
        paths = [file.relative_to(photos).as_posix() for file in part]
        contents = [file.read_bytes() for file in part]
        columns = {
            "image": [image(*pair) for pair in zip(contents, paths, strict=True)],
            "label": [names.index(file.parent.name) for file in part],
        }
        features = {"image": {"_type": "Image"}, "label": class_label(names)}
        write_parquet(folder / f"train-{number:03d}.parquet", columns, features, rows_per_group)
    return f"{folder}/train-*.parquet"
