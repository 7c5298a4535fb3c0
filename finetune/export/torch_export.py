"""model.pt2: the graph of torch.export, which PyTorch alone runs."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from finetune.export.description import ModelDescription
from finetune.export.graphs import GraphFormat
from finetune.export.served import ModelToExport

_USAGE = """\
import torch

program = torch.export.load("{file}").module()
with torch.no_grad():
    probabilities = program(torch.from_numpy(images)).numpy()
"""


class TorchExport(GraphFormat):
    name: ClassVar[str] = "torch_export"
    file: ClassVar[str] = "model.pt2"

    def save(self, exported: ModelToExport, file: Path) -> None:
        torch.export.save(exported.program, file)

    def load(self, file: Path) -> Callable[[Tensor], Tensor]:
        return torch.export.load(file).module()

    def introduction(self, description: ModelDescription) -> str:
        return (
            f"From `{self.file}`, with PyTorch alone, best in the release that wrote it (see "
            "Versions); normalisation and probabilities are in the graph:"
        )

    def usage(self, description: ModelDescription, source: str) -> str:
        return _USAGE.format(file=self.file)
