"""The formats of an exported model, and the files that each has."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from finetune.tasks import DEFAULT_TASK, Task
from finetune.wording import did_you_mean

Format: TypeAlias = Literal["safetensors", "onnx", "torch_export"]

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
CARD = "README.md"
FILES: dict[Format, str] = {
    "safetensors": WEIGHTS,
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
}
ONNX_DATA = "model.onnx.data"
"""The weights of a model whose model.onnx would exceed the 2 GB that such a file can hold."""

MODEL_FILES = frozenset({DESCRIPTION, CARD, ONNX_DATA, *FILES.values()})
"""The names of all files that an exported folder may hold."""


def check_formats(formats: Format | Sequence[Format]) -> tuple[Format, ...]:
    """The formats that are asked for, each once, in the order of `FILES`.

    Raises ValueError for an unknown format and for none, ModuleNotFoundError if the library of a
    format is missing.

    >>> check_formats(["onnx", "safetensors"])
    ('safetensors', 'onnx')
    """
    if isinstance(formats, str):
        formats = [formats]
    names = list(formats)
    for name in names:
        if name not in get_args(Format):
            hint = did_you_mean(str(name), get_args(Format))
            raise ValueError(f"format must be one of {', '.join(FILES)}, got {name!r}; {hint}")
    if not names:
        raise ValueError(f"format names nothing to write; it is one or several of {list(FILES)}")
    if "onnx" in names:
        _check_onnx()
    return tuple(name for name in FILES if name in names)


def describe_formats(
    formats: Sequence[Format], image_size: int, task: Task = DEFAULT_TASK
) -> dict[str, Any]:
    """By format: its file, and what the model takes and gives, as plain data."""
    described: dict[str, Any] = {}
    for name in formats:
        # a graph contains the normalisation and the activation; weights are of the model alone
        if name == "safetensors":
            input_values, outputs = "normalised RGB", task.card.raw_outputs
        else:
            input_values, outputs = "RGB in [0, 1]", task.card.outputs
        described[name] = {
            "file": FILES[name],
            "input": {
                "name": "images",
                "dtype": "float32",
                "shape": ["batch", 3, image_size, image_size],
                "is": input_values,
            },
            "output": outputs,
        }
    return described


def _check_onnx() -> None:
    """Raises ModuleNotFoundError unless all that ONNX needs is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"format 'onnx' needs onnx, onnxscript and onnxruntime ({error}); "
            "run pip install 'finetune-vision[onnx]'"
        ) from None
