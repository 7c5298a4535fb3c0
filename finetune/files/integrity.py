"""Whether a file is whole, before anything is loaded from it."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_DIRECTORY = 0x10
"""The bit of a zip's record by which it says that it is a folder, and has no content."""


class DamagedError(ValueError):
    """A file is not what was written: truncated, or with other bytes."""


def check_torch_file(path: Path) -> None:
    """Reads a file of `torch.save` and compares each record with its check sum (CRC-32).

    `torch.load` does not look at them. A file in torch's old format, which is no zip, has none and
    raises nothing. What no check sum covers (the headers) is either compared with a second copy of
    it, or has no effect on what is loaded, or is refused here: records are as large as they say,
    uncompressed, and no folders.
    Raises DamagedError, and OSError for a file that can't be read.
    """
    if not _begins_as_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(archive, path.stat().st_size)
    except OSError:
        raise
    except Exception as error:  # zipfile raises its own errors, NotImplementedError, struct.error
        raise DamagedError(f"it is truncated or damaged ({_in_words(error)})") from error


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _check_records(archive: zipfile.ZipFile, size: int) -> None:
    records = archive.infolist()
    for record in records:
        name = record.filename
        if record.external_attr & _DIRECTORY or record.is_dir():
            raise DamagedError(f"its record {name!r} says that it is a folder")
        if record.compress_type != zipfile.ZIP_STORED:
            raise DamagedError(f"its record {name!r} is compressed, which torch does not do")
    if sum(record.file_size for record in records) > size:
        raise DamagedError("its records are larger than the file")
    for record in records:
        # at the end of a record, zipfile compares its check sum
        with archive.open(record) as stream:
            while stream.read(_CHUNK):
                pass


def _in_words(error: Exception) -> str:
    if isinstance(error, DamagedError | zipfile.BadZipFile):
        return str(error)
    return type(error).__name__


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def recorded(file: Path) -> dict[str, Any]:
    """What `check_recorded` compares a file with: its size and its SHA-256."""
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def check_recorded(file: Path, record: Mapping[str, Any]) -> None:
    """Raises DamagedError unless the file is the one of which `recorded` gave this record."""
    size = file.stat().st_size
    if size != record.get("bytes"):
        raise DamagedError(f"it has {size:,} bytes and was written with {record.get('bytes'):,}")
    if sha256_of(file) != record.get("sha256"):
        raise DamagedError("its SHA-256 is not that of the file that was written")


def check_described(file: Path, description: Path) -> None:
    """Compares a file with its record in the JSON file of an exported model, where it has one.

    Raises DamagedError for another file.
    """
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # it is not there, or not one of ours
        return
    records = content.get("files") if isinstance(content, dict) else None
    record = records.get(file.name) if isinstance(records, dict) else None
    if isinstance(record, dict):
        check_recorded(file, record)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same plain data with the SHA-256 of itself, for a JSON file."""
    return {**content, "sha256": _seal_of(content)}


def check_sealed(content: Mapping[str, Any]) -> None:
    """Raises DamagedError unless the data are what `sealed` gave; data without a seal pass."""
    if "sha256" in content and content["sha256"] != _seal_of(content):
        raise DamagedError(
            "it is not what was written, its sha256 differs; if it was changed on purpose, remove "
            "the key 'sha256'"
        )


def _seal_of(content: Mapping[str, Any]) -> str:
    """Of the values, however they are written in the file."""
    unsealed = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(unsealed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
