"""ExportFormat: one way to write a model, with all that depends on it; and which there are."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

from finetune import arguments
from finetune.export.description import ModelDescription
from finetune.export.served import ModelToExport
from finetune.tasks import DEFAULT_TASK, Task
from finetune.wording import did_you_mean

FormatName: TypeAlias = Literal[
    "safetensors", "onnx", "onnx_fp16", "onnx_int8", "torch_export", "app"
]
"""The formats that come with the library; `register` adds others."""

DESCRIPTION = "model.json"
CARD = "README.md"
WEIGHTS = "model.safetensors"
FEATURES = "features.safetensors"
"""What post-processing compares images with, if it does."""

_FORMATS: dict[str, "ExportFormat"] = {}


class ExportFormat(ABC):
    """A way to write a model into a folder, and to use it from there without finetune.

    name: how `export` and the command line call it. file: what it writes; more_files: what it may
    write beside that. has_ends: whether normalisation and activation are in the file, which then
    takes RGB images in [0, 1]. needs: names of other formats that are then written, too.
    uses_images: whether validation images say what it loses; needs_images: whether it can't be
    written without any.
    front_matter: what the head of the model card says beside the rest.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    more_files: ClassVar[tuple[str, ...]] = ()
    has_ends: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    uses_images: ClassVar[bool] = False
    needs_images: ClassVar[bool] = False
    front_matter: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def check_installed(self) -> None:  # noqa: B027  # most formats need nothing more
        """Raises ModuleNotFoundError, with the way out, if a library that it needs is missing."""

    @abstractmethod
    def write(self, folder: Path, exported: ModelToExport) -> None:
        """Writes its files into a folder. Raises RuntimeError for a model that it can't hold."""

    def describe(self, input_shape: Sequence[int], task: Task) -> dict[str, Any]:
        """Its file, and what the model takes and gives, as plain data."""
        values = "RGB" if input_shape[0] == 3 else "values"
        if self.has_ends:
            input_values, outputs = f"{values} in [0, 1]", task.card.outputs
        else:
            input_values, outputs = f"normalised {values}", task.card.raw_outputs
        return {
            "file": self.file,
            "input": {
                "name": "images",
                "dtype": "float32",
                "shape": ["batch", *input_shape],
                "is": input_values,
            },
            "output": outputs,
        }

    @abstractmethod
    def introduction(self, description: ModelDescription) -> str:
        """A sentence for the model card, before the code."""

    @abstractmethod
    def usage(self, description: ModelDescription, source: str) -> str:
        """Python code for the model card that goes from `images` to `probabilities`.

        images: float32 [batch, 3, size, size], RGB in [0, 1]. source: Python code that makes
        `backbone` and `head`. Empty for what is no model by itself.
        """


def register(export_format: ExportFormat) -> ExportFormat:
    """Makes a format known by its name. A second one of the same name takes its place."""
    _FORMATS[export_format.name] = export_format
    return export_format


def registered_formats() -> tuple[ExportFormat, ...]:
    """All formats, in the order in which they were registered."""
    return tuple(_FORMATS.values())


def formats_of(names: Sequence[str]) -> list[ExportFormat]:
    """The formats of these names. Raises KeyError for one that is not registered."""
    return [_FORMATS[name] for name in names]


def model_files() -> frozenset[str]:
    """The names of all files that an exported folder may hold."""
    names = {DESCRIPTION, CARD, FEATURES}
    for export_format in registered_formats():
        names |= {export_format.file, *export_format.more_files}
    return frozenset(names)


def check_formats(formats: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the formats that are asked for, each once, in the order of registration.

    With them come those that they need.

    Raises ValueError for an unknown format and for none, ModuleNotFoundError if the library of a
    format is missing.

    >>> check_formats(["onnx", "safetensors"])
    ('safetensors', 'onnx')
    """
    if isinstance(formats, str):
        formats = [formats]
    names = list(arguments.sequence("format", formats, "formats, or one name"))
    known = [export_format.name for export_format in registered_formats()]
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ValueError(f"format must be one of {', '.join(known)}, got {name!r}; {hint}")
    if not names:
        raise ValueError(f"format names nothing to write; it is one or several of {known}")
    for export_format in formats_of(list(names)):
        names.extend(export_format.needs)
    in_order = tuple(name for name in known if name in names)
    for export_format in formats_of(in_order):
        export_format.check_installed()
    return in_order


def describe_formats(
    names: Sequence[str], input_shape: Sequence[int], task: Task = DEFAULT_TASK
) -> dict[str, Any]:
    """By format: its file, and what the model takes and gives, as plain data."""
    formats = formats_of(names)
    return {
        export_format.name: export_format.describe(input_shape, task) for export_format in formats
    }
