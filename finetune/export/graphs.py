"""A model as a graph that runs without its code: how it is traced and compared with the model."""

import copy
import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.export.description import ModelDescription
from finetune.export.formats import ExportFormat
from finetune.randomness import generator, isolated

TOLERANCE = 1e-4
"""How far a graph's probabilities may be from the model's; rounding is about 1e-6."""


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


@dataclass
class ModelToExport:
    """A model and its description; what several formats need of it is made once."""

    model: nn.Module
    description: ModelDescription

    @cached_property
    def served(self) -> Served:
        return Served.copy_of(self.model, self.description)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The served model as a graph of torch's operations, for any number of images."""
        size = self.description.preprocessing.image_size
        # two images: with one, the size of the batch would become a constant of the graph
        example = (torch.zeros(2, 3, size, size),)
        batch = torch.export.Dim("batch")
        return torch.export.export(self.served, example, dynamic_shapes=({0: batch},))


class GraphFormat(ExportFormat):
    """A format that holds a graph: it says how to save one, and how to run what was saved."""

    def write(self, folder: Path, exported: ModelToExport) -> None:
        """Traces the model, saves the graph, and compares what it computes with the model.

        Raises RuntimeError for a model that can't be traced, and for a graph whose outputs differ.
        """
        file = folder / self.file
        with isolated(), _quiet():
            with _explained("a graph"):
                program = exported.program
            with _explained(self.name):
                self.save(program, file)
                size = exported.description.preprocessing.image_size
                _check(exported.served, size, self.load(file))

    @abstractmethod
    def save(self, program: torch.export.ExportedProgram, file: Path) -> None:
        """Writes the graph to a file."""

    @abstractmethod
    def load(self, file: Path) -> Callable[[Tensor], Tensor]:
        """A function from images, float32 [B, 3, S, S] in [0, 1], to the outputs of the file."""


@torch.no_grad()
def _check(served: Served, size: int, run: Callable[[Tensor], Tensor]) -> None:
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
