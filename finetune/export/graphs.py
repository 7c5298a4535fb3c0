"""A model as a graph that runs without its code: ONNX and torch.export."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.export.description import ModelDescription
from finetune.export.formats import FILES
from finetune.randomness import generator, isolated

TOLERANCE = 1e-4
"""How far a graph's probabilities may be from the model's; rounding is about 1e-6."""

_LARGEST_FILE = 1_900_000_000
"""Bytes of weights in a model.onnx; more go to a file beside it, as protobuf ends at 2 GB."""


class Served(nn.Module):
    """A model with its normalisation before it and its activation behind it.

    It maps RGB images in [0, 1], float32 [B, 3, S, S], to probabilities [B, C]; a regression's to
    values [B, C].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.model = model
        preprocessing = description.preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))
        self.task = description.task
        self.temperature = description.post_processing.temperature

    @classmethod
    def copy_of(cls, model: nn.Module, description: ModelDescription) -> "Served":
        """Serves a copy of the model on the CPU, ready to be traced."""
        copied = copy.deepcopy(model).to("cpu", torch.float32)
        copied = copied.to(memory_format=torch.contiguous_format)
        served = cls(copied, description)
        served.eval().requires_grad_(False)
        return served

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.model((images - self.mean) / self.std)
        return self.task.activation(outputs, self.temperature)


def write(folder: Path, model: nn.Module, description: ModelDescription) -> None:
    """Writes the formats that are graphs, reads each back and compares it with the model.

    Raises RuntimeError for a model that can't be traced, and for a graph whose outputs differ.
    """
    graph_formats = [name for name in description.formats if name != "safetensors"]
    if not graph_formats:
        return
    served = Served.copy_of(model, description)
    size = description.preprocessing.image_size
    with isolated(), _quiet():
        with _explained("a graph"):
            program = _trace(served, size)
        if "torch_export" in graph_formats:
            file = folder / FILES["torch_export"]
            with _explained("torch_export"):
                torch.export.save(program, file)
                _check(served, size, _run_torch(file))
        if "onnx" in graph_formats:
            file = folder / FILES["onnx"]
            with _explained("onnx"):
                _write_onnx(program, file)
                _check(served, size, _run_onnx(file))


def _trace(served: Served, size: int) -> torch.export.ExportedProgram:
    # two images: with one, the size of the batch would become a constant of the graph
    example = (torch.zeros(2, 3, size, size),)
    batch = torch.export.Dim("batch")
    return torch.export.export(served, example, dynamic_shapes=({0: batch},))


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    converted = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert converted is not None
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    converted.save(file, external_data=size > _LARGEST_FILE)


def _run_torch(file: Path) -> Any:
    return torch.export.load(file).module()


def _run_onnx(file: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def _check(served: Served, size: int, run: Any) -> None:
    """Raises ValueError unless a graph, called by `run`, has the outputs of the model."""
    for count in (1, 3):  # other batch sizes than that of the trace
        images = torch.rand(count, 3, size, size, generator=generator(0, "export", count))
        expected = served(images)
        outputs = run(images)
        if not torch.allclose(expected, outputs, rtol=TOLERANCE, atol=TOLERANCE):
            difference = float((expected - outputs).abs().max())
            raise ValueError(f"its outputs differ from the model's by up to {difference:.2g}")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns an exporter's error, of whatever class, into a RuntimeError that says the way out."""
    try:
        yield
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"this model can't be exported as {name}: {first_line}; "
            "format='safetensors' needs no graph and works for every model"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which print, log and warn of their internals; errors still rise."""
    disabled_before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    output = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_before)
