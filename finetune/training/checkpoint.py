"""Checkpoints: one versioned file, written atomically, read without unpickling code."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

FORMAT, VERSION = "finetune checkpoint", 1


class CheckpointError(RuntimeError):
    """A checkpoint file that can't be used: truncated, of another model, or of a newer version."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain data; a file that was there stays whole until the new one is.

    Raises OSError, with the old file intact, when the disk is full or the folder can't be written,
    and TypeError for anything that `read` would refuse.
    """
    _check_plain(content, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name: a killed write leaves no litter
    try:
        with temporary.open("wb") as stream:
            _save({"format": FORMAT, "version": VERSION, **content}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        text = f"can't write the checkpoint, an old one is intact: {error.strerror}"
        raise OSError(error.errno, text, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _check_plain(value: Any, name: str) -> None:
    """What is written must be readable without unpickling code: a numpy number would not be."""
    if isinstance(value, Mapping) and type(value) in (dict, OrderedDict):
        for key, part in value.items():
            _check_plain(part, f"{name}.{key}" if name else str(key))
    elif type(value) in (list, tuple):
        for part in value:
            _check_plain(part, name)
    elif not isinstance(value, Tensor) and type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(
            f"a checkpoint holds tensors and plain data only, but {name} is a "
            f"{type(value).__module__}.{type(value).__name__}"
        )


def _save(content: dict[str, Any], stream: BinaryIO) -> None:
    """torch.save, with the file's own error instead of the one torch puts in its place."""
    guarded = _Guarded(stream)
    try:
        torch.save(content, guarded)  # type: ignore[arg-type]
    except RuntimeError:
        if guarded.error is not None:
            raise guarded.error from None
        raise


class _Guarded:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.stream.flush()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # the rename itself must survive a power cut
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems can't, and the file is in place
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, on the CPU. Raises FileNotFoundError or CheckpointError."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ...
        kind = type(error).__name__  # torch's text recommends to unpickle without care
        raise CheckpointError(f"{str(path)!r} is truncated or no checkpoint ({kind})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{str(path)!r} is not a checkpoint of finetune")
    if content["version"] > VERSION:
        raise CheckpointError(
            f"{str(path)!r} has format version {content['version']}, this finetune reads up to "
            f"{VERSION}; update finetune"
        )
    return content


def check_fits(path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless both have the same names and shapes."""
    differences = [f"{n} is missing" for n in own if n not in saved]
    differences += [f"{n} is not in this model" for n in saved if n not in own]
    differences += [
        f"{n} has shape {tuple(saved[n].shape)}, here {tuple(own[n].shape)}"
        for n in own
        if n in saved and saved[n].shape != own[n].shape
    ]
    if differences:
        shown = "; ".join(differences[:3])
        more = f"; and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise CheckpointError(f"{str(path)!r} is a checkpoint of another model: {shown}{more}")


def check_same(path: Path, both: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises CheckpointError unless the value in the file and the own one are the same."""
    for name, (saved, own) in both.items():
        if saved != own:
            raise CheckpointError(
                f"{str(path)!r} was made with {name} {saved!r}, here it is {own!r}"
            )


def check_settings(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless an interrupted run goes on as it began.

    saved: files from before there was a setting are without it, and then it was off.
    """
    for name, value in own.items():
        if (before := saved.get(name) or None) != (value or None):
            raise CheckpointError(
                f"the interrupted run had {name}={before}, this learner has {name}={value or None};"
                " continue with the same"
            )
