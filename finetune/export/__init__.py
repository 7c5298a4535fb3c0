"""Export: a model <-> a folder that needs no finetune: weights or graphs, JSON, a model card."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.export import onnx, placing, weights
from finetune.export.app import App
from finetune.export.description import FORMAT, VERSION, ModelDescription
from finetune.export.formats import (
    CARD,
    DESCRIPTION,
    FEATURES,
    WEIGHTS,
    ExportFormat,
    FormatName,
    check_formats,
    describe_formats,
    formats_of,
    register,
    registered_formats,
)
from finetune.export.labelled_images import LabelledImages
from finetune.export.onnx import Onnx
from finetune.export.served import ModelToExport
from finetune.export.smaller_onnx import OnnxFp16, OnnxInt8
from finetune.export.torch_export import TorchExport
from finetune.export.weights import Safetensors
from finetune.files import integrity, locks
from finetune.files.integrity import DamagedError
from finetune.files.replacing import write_text

__all__ = [
    "ExportFormat",
    "FormatName",
    "LabelledImages",
    "ModelDescription",
    "check_formats",
    "read_description",
    "read_weights",
    "register",
    "registered_formats",
    "write",
]

register(Safetensors())
register(Onnx())
register(OnnxFp16())
register(OnnxInt8())
register(TorchExport())
register(App())


def write(
    folder: Path,
    model: nn.Module,
    description: ModelDescription,
    *,
    card: Callable[[ModelDescription], str] | None = None,
    images: LabelledImages | None = None,
    onnx_opset: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes model, description and card; the folder appears whole or not at all.

    The formats are those of the description. card: makes the text of its README.md of the
    description, which then knows what was found of the formats; None: there is none. images: of
    validation, by which formats that compute less exactly are calibrated and measured. onnx_opset:
    None is the exporter's own. Raises ValueError where such a format needs images and there are
    none, FileExistsError for a folder with something in it, unless it is an exported model that is
    to be overwritten; what is not ours is never removed. A link to a folder stays, a mount point is
    filled. Raises OSError where it can't be written, and InUseError while another process writes
    the same folder.
    """
    onnx.check_opset(onnx_opset)
    for export_format in formats_of(description.formats):
        if export_format.needs_images and images is None:
            raise ValueError(
                f"format {export_format.name!r} needs labelled images to be calibrated with, and "
                "there are no validation data; --images of `finetune export` names a folder of them"
            )
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(placing.lock_for(folder), repr(str(folder))):
        placing.remove_leftovers(folder)
        placing.check_free(folder, overwrite)
        temporary = placing.temporary_for(folder)
        try:
            with _explained(folder):
                temporary.mkdir()
                exported = ModelToExport(model, description, images, onnx_opset)
                _write_files(temporary, exported, card)
            placing.check_free(folder, overwrite)  # minutes may have passed
            placing.place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_files(
    folder: Path, exported: ModelToExport, card: Callable[[ModelDescription], str] | None
) -> None:
    """Writes all files of an export; the description, last, has the check sums of the others."""
    description = replace(exported.description, comparisons={})
    # it is there for the formats, too
    _write_json(folder / DESCRIPTION, _content(description))
    tensors = description.post_processing.tensors()
    if tensors:
        save_file(tensors, str(folder / FEATURES))
        (folder / FEATURES).chmod((folder / DESCRIPTION).stat().st_mode)
    for export_format in formats_of(description.formats):
        export_format.write(folder, exported)
    description = replace(description, comparisons=exported.comparisons)
    content = _content(description)
    records = {}
    for file in sorted(folder.iterdir()):
        if file.name != DESCRIPTION:
            records[file.name] = integrity.recorded(file)
    _write_json(folder / DESCRIPTION, integrity.sealed({**content, "files": records}))
    if card is not None:
        write_text(folder / CARD, card(description), errors="backslashreplace")
    placing.sync(folder)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns whatever a full disk or a missing permission raises into an OSError with the folder."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _errno_of(error)
        if number is None:
            raise
        text = f"can't write the model, an old one is intact: {os.strerror(number)}"
        raise OSError(number, text, str(folder)) from error


def _errno_of(error: SafetensorError) -> int | None:
    """safetensors says an operating system's error in words alone: "... (os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return None if number is None else int(number[1])


def _content(description: ModelDescription) -> dict[str, Any]:
    """What model.json holds: the description, and of each format its file, inputs and outputs."""
    input_shape = description.preprocessing.input_shape
    formats = describe_formats(description.formats, input_shape, description.task)
    return {**description.to_dict(), "formats": formats}


def read_description(folder: Path) -> ModelDescription:
    """The description of an exported model with weights.

    Raises FileNotFoundError, or ValueError for what is no exported model, or a damaged one.
    """
    _check_has_files(folder)
    content = _read_json(folder)
    try:
        return ModelDescription.from_dict(content, _read_tensors(folder))
    except KeyError as error:
        raise ValueError(f"{str(folder / DESCRIPTION)!r} has no {error}") from error
    except (AttributeError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{str(folder / DESCRIPTION)!r} can't be used: {error}") from error


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """What post-processing compares images with; empty where there is nothing.

    Raises ValueError for a damaged file.
    """
    file = folder / FEATURES
    if not file.is_file():
        return {}
    try:
        integrity.check_described(file, folder / DESCRIPTION)
        return load_file(str(file))
    except (DamagedError, SafetensorError) as error:
        raise ValueError(f"{str(file)!r} can't be loaded: {error}") from error


def _check_has_files(folder: Path) -> None:
    """Raises FileNotFoundError for a folder without description or weights."""
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"{str(folder)!r} is no exported model: it has no {DESCRIPTION}")
    if not (folder / WEIGHTS).is_file():
        written = [f.name for f in registered_formats() if (folder / f.file).is_file()]
        hint = ""
        if written:
            hint = f"; it was exported as {' and '.join(written)} without 'safetensors'"
        raise FileNotFoundError(f"{str(folder)!r} is no exported model: it has no {WEIGHTS}{hint}")


def _read_json(folder: Path) -> dict[str, Any]:
    """What model.json holds, of a version that this package reads, and undamaged."""
    file = str(folder / DESCRIPTION)
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{file!r} is nested too deeply to describe a model") from None
    except ValueError as error:
        raise ValueError(f"{file!r} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file!r} does not describe a finetune model")
    version = content.get("version")
    if not isinstance(version, int):
        raise ValueError(f"{file!r} has no format version, a whole number, but {version!r}")
    if version > VERSION:
        raise ValueError(
            f"{str(folder)!r} has format version {version}, this finetune reads "
            f"up to {VERSION}; update finetune"
        )
    try:
        integrity.check_sealed(content)
    except DamagedError as error:
        raise ValueError(f"{file!r} is damaged: {error}") from error
    return content


def read_weights(folder: Path, model: nn.Module) -> None:
    """Loads the weights into the model. Raises ValueError if they are damaged or of another one."""
    try:
        # safetensors has no check sums of its own
        integrity.check_described(folder / WEIGHTS, folder / DESCRIPTION)
        weights.load(model, folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own types for damaged files
        raise ValueError(f"{str(folder / WEIGHTS)!r} can't be loaded: {error}") from error
