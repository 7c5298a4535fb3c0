"""Checkpoints: one versioned file, written atomically, read without unpickling code."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from finetune.files.integrity import DamagedError, check_torch_file
from finetune.files.replacing import replacing

FORMAT = "finetune checkpoint"
VERSION = 1
EXTRA_STATE = "_extra_state"
"""How the name of what `get_extra_state` of a module gives ends, in torch."""

_PLAIN_TYPES = (str, int, float, bool, type(None))
_MOST_DIFFERENCES = 3
"""Differences between a file and the model that an error message lists."""


class CheckpointError(RuntimeError):
    """A checkpoint file that can't be used: truncated, of another model, or of a newer version.

    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile(suffix=".ckpt") as file:
    ...     try:
    ...         read(Path(file.name))
    ...     except CheckpointError as error:
    ...         print(type(error).__name__)
    CheckpointError
    """


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain data; an old file stays in place until the new one is complete.

    Raises OSError, with the old file intact, when the disk is full or the folder can't be written,
    and TypeError for anything that `read` would refuse.
    """
    _check_plain(content)
    with replacing(path, "the checkpoint") as stream:
        _save({"format": FORMAT, "version": VERSION, **content}, stream)


def _check_plain(value: Any, name: str = "") -> None:
    """Raises TypeError for what only unpickling could read back, such as a numpy number.

    name: where in the content the value is, such as "optimizer.state".
    """
    # the exact types: a subclass would be pickled by its name
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(item, f"{name}.{key}" if name else str(key))
    elif kind in (list, tuple):
        for item in value:
            _check_plain(item, name)
    elif not isinstance(value, Tensor) and kind not in _PLAIN_TYPES:
        raise TypeError(
            f"a checkpoint holds tensors and plain data only, but {name} is a "
            f"{kind.__module__}.{kind.__name__}"
        )


def _save(content: dict[str, Any], stream: BinaryIO) -> None:
    """Calls torch.save, and raises the stream's OSError, which torch replaces by a RuntimeError."""
    guarded = _Guarded(stream)
    try:
        torch.save(content, guarded)  # type: ignore[arg-type]
    except RuntimeError:
        if guarded.error is not None:
            raise guarded.error from None
        raise


class _Guarded:
    """A stream that remembers the error of a write."""

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


def read(path: Path) -> dict[str, Any]:
    """Reads what `write` wrote, on the CPU, once the whole file is known to be intact.

    Raises CheckpointError for any other file, and FileNotFoundError, PermissionError or another
    OSError where it can't be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}")
    try:
        check_torch_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except DamagedError as error:
        raise CheckpointError(f"{str(path)!r} is truncated or no checkpoint: {error}") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ...
        kind = type(error).__name__  # without torch's text, which recommends careless unpickling
        raise CheckpointError(f"{str(path)!r} is truncated or no checkpoint ({kind})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{str(path)!r} is not a checkpoint of finetune")
    version = content.get("version")
    if not isinstance(version, int):
        raise CheckpointError(f"{str(path)!r} has no format version, but {version!r}")
    if version > VERSION:
        raise CheckpointError(
            f"{str(path)!r} has format version {version}, this finetune reads up to "
            f"{VERSION}; update finetune"
        )
    return content


def check_fits(
    path: Path, saved: Mapping[str, Any], present: Mapping[str, Any], *, of: str = "model"
) -> None:
    """Raises CheckpointError unless the model has the names and shapes of what was saved.

    saved, present: weights, buffers and extra state by name, in the file and in the model. of: what
    they belong to.
    """
    differences = differences_in_words(saved, present, of=of)
    if differences:
        raise CheckpointError(f"{str(path)!r} is a checkpoint of another {of}: {differences}")


def differences_in_words(
    saved: Mapping[str, Any], present: Mapping[str, Any], *, of: str = "model"
) -> str:
    """In what names and shapes the weights of two models differ; empty for the same ones."""
    differences = [f"{name} is missing" for name in present if name not in saved]
    differences += [f"{name} is not in this {of}" for name in saved if name not in present]
    for name, value in present.items():
        if name in saved:
            differences += _difference(name, saved[name], value)
    listed = "; ".join(differences[:_MOST_DIFFERENCES])
    unlisted = len(differences) - _MOST_DIFFERENCES
    if unlisted > 0:
        listed += f"; and {unlisted} more differences"
    return listed


def _difference(name: str, saved: Any, present: Any) -> list[str]:
    """At most one difference, in words, between an entry of a file and that of the model."""
    if name.endswith(EXTRA_STATE):  # which only the module itself can judge
        return []
    if saved.shape != present.shape:
        return [f"{name} has shape {tuple(saved.shape)}, here {tuple(present.shape)}"]
    if saved.dtype != present.dtype:
        return [f"{name} is in {saved.dtype}, here in {present.dtype}"]
    return []


def check_same(path: Path, values: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises CheckpointError unless the file was made with the present values.

    values: what it is -> its value in the file and its present one.
    """
    for name, (saved, present) in values.items():
        if saved != present:
            raise CheckpointError(
                f"{str(path)!r} was made with {name} {saved!r}, here it is {present!r}"
            )


def check_settings(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the interrupted run had the present settings.

    A file that is older than a setting lacks it; the setting was off then, as 0 and None are.
    """
    for name, value in present.items():
        saved_value = saved.get(name) or None
        present_value = value or None
        if saved_value != present_value:
            raise CheckpointError(
                f"the interrupted run had {name}={saved_value}, this learner has "
                f"{name}={present_value}; continue with the same"
            )
