"""model.onnx: a graph for ONNX Runtime and everything else that reads ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from finetune import arguments
from finetune.export.description import ModelDescription
from finetune.export.graphs import GraphFormat
from finetune.export.served import ModelToExport

LARGEST_FILE = 1_900_000_000
"""Bytes of weights in a model.onnx; more go to a file beside it, as protobuf ends at 2 GB."""

_USAGE = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
(probabilities,) = session.run(None, {{"images": images}})
"""


OLDEST_OPSET = 18
"""Below it torch's exporter writes this one, whatever it is asked for."""


def check_opset(onnx_opset: int | None) -> int | None:
    """The version of ONNX's operators to write. Raises ValueError for one that can't be written."""
    if onnx_opset is None:
        return None
    arguments.whole_number("onnx_opset", onnx_opset, at_least=1)
    if onnx_opset < OLDEST_OPSET:
        raise ValueError(
            f"onnx_opset must be at least {OLDEST_OPSET}, got {onnx_opset}: torch's exporter "
            "writes no older one"
        )
    return onnx_opset


class Onnx(GraphFormat):
    name: ClassVar[str] = "onnx"
    file: ClassVar[str] = "model.onnx"
    more_files: ClassVar[tuple[str, ...]] = ("model.onnx.data",)

    def check_installed(self) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ModuleNotFoundError(
                f"format {self.name!r} needs onnx, onnxscript and onnxruntime ({error}); "
                "run pip install 'finetune-vision[onnx]'"
            ) from None

    def save(self, exported: ModelToExport, file: Path) -> None:
        size = sum(tensor.nbytes for tensor in exported.program.state_dict.values())
        exported.onnx_program.save(file, external_data=size > LARGEST_FILE)

    def load(self, file: Path) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    def introduction(self, description: ModelDescription) -> str:
        return (
            f"From `{self.file}`, with ONNX Runtime; normalisation and probabilities are in the "
            "graph:"
        )

    def usage(self, description: ModelDescription, source: str) -> str:
        return _USAGE.format(file=self.file)
