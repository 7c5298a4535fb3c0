"""GraphFormat: an export format that holds a graph, which is compared with the model."""

import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from finetune.export.formats import ExportFormat
from finetune.export.served import ModelToExport, Served
from finetune.randomness import generator, isolated

TOLERANCE = 1e-4
"""How far a graph's probabilities may be from the model's; rounding is about 1e-6."""


class GraphFormat(ExportFormat):
    """A format that holds a graph: it says how to save one, and how to run what was saved."""

    def write(self, folder: Path, exported: ModelToExport) -> None:
        """Traces the model, saves the graph, and compares what it computes with the model.

        Raises RuntimeError for a model that can't be traced, and for a graph whose outputs differ.
        """
        file = folder / self.file
        with isolated(), quiet():
            with explained("a graph"):
                _ = exported.program
            with explained(self.name):
                self.save(exported, file)
                input_shape = exported.description.preprocessing.input_shape
                _check(exported.served, input_shape, self.load(file))

    @abstractmethod
    def save(self, exported: ModelToExport, file: Path) -> None:
        """Writes the graph to a file."""

    @abstractmethod
    def load(self, file: Path) -> Callable[[Tensor], Tensor]:
        """A function from images, float32 [B, 3, H, W] in [0, 1], to the outputs of the file."""


@torch.no_grad()
def _check(served: Served, input_shape: Sequence[int], run: Callable[[Tensor], Tensor]) -> None:
    """Raises ValueError unless a graph, called by `run`, has the outputs of the model."""
    for count in (1, 3):  # other batch sizes than that of the trace
        shape = (count, *input_shape)
        images = torch.rand(shape, generator=generator(0, "export", count))
        expected = served(images)
        outputs = run(images)
        if not torch.allclose(expected, outputs, rtol=TOLERANCE, atol=TOLERANCE):
            difference = float((expected - outputs).abs().max())
            raise ValueError(f"its outputs differ from the model's by up to {difference:.2g}")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an exporter's error, of whatever class, into a RuntimeError that says the way out."""
    try:
        yield
    except OSError:  # a full disk, say, of which the model is innocent
        raise
    except Exception as error:
        # an exporter wraps what happened in words about its own steps
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first_line = str(cause).strip().partition("\n")[0]
        raise RuntimeError(
            f"this model can't be exported as {name}: {first_line}; "
            "format='safetensors' needs no graph and works for every model"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
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
