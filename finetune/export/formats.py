"""The formats of an exported model, and the files that each has."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from finetune.tasks import DEFAULT_TASK, Task
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


def check_formats(formats: Format | Sequence[Format]) -> tuple[Format, ...]:
    """One format or several, each once, in the order of `FILES`.

    Raises ValueError for an unknown one or none, ModuleNotFoundError where a library is missing.

    >>> check_formats(["onnx", "safetensors"])
    ('safetensors', 'onnx')
    """
    names = [formats] if isinstance(formats, str) else list(formats)
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
    """What goes in and comes out, by format, as plain data."""
    described: dict[str, Any] = {}
    for name in formats:
        is_graph = name != "safetensors"  # graphs normalise by themselves, and have the activation
        described[name] = {
            "file": FILES[name],
            "input": {
                "name": "images",
                "dtype": "float32",
                "shape": ["batch", 3, image_size, image_size],
                "is": "RGB in [0, 1]" if is_graph else "normalised RGB",
            },
            "output": task.card.outputs if is_graph else task.card.raw_outputs,
        }
    return described


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
