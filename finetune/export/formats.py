"""The formats of an exported model, and the files that each has."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from finetune.tasks.task import Task
from finetune.wording import did_you_mean

Format: TypeAlias = Literal["safetensors", "onnx", "torch_export"]

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "README.md"
FILES: dict[Format, str] = {
    "safetensors": WEIGHTS,
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
}
ONNX_DATA = "model.onnx.data"
"""The weights of a model.onnx that would be beyond the 2 GB that one such file can hold."""

OWN_FILES = frozenset({DESCRIPTION, CARD, ONNX_DATA, *FILES.values()})


def check_formats(given: Format | Sequence[Format]) -> tuple[Format, ...]:
    """One format or several, each once, in the order of `FILES`.

    Raises ValueError for an unknown one or none, ModuleNotFoundError where a library is missing.

    >>> check_formats(["onnx", "safetensors"])
    ('safetensors', 'onnx')
    """
    names = [given] if isinstance(given, str) else list(given)
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
    formats: Sequence[Format], image_size: int, task: Task = "single_label"
) -> dict[str, Any]:
    """What goes in and comes out, by format, as plain data."""
    shape = ["batch", 3, image_size, image_size]
    graph = "values" if task == "regression" else "probabilities"
    raw = "values" if task == "regression" else "logits"
    return {
        name: {
            "file": FILES[name],
            "input": {
                "name": "images",
                "dtype": "float32",
                "shape": shape,
                "is": "normalised RGB" if name == "safetensors" else "RGB in [0, 1]",
            },
            "output": raw if name == "safetensors" else graph,
        }
        for name in formats
    }


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"format 'onnx' needs onnx, onnxscript and onnxruntime ({error}); "
            "run pip install 'finetune-vision[onnx]'"
        ) from None
