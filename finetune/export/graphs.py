"""A model as a graph that runs without its code: ONNX and torch.export."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.export.formats import FILES, Format
from finetune.randomness import generator, isolated
from finetune.tasks.task import Task

TOLERANCE = 1e-4
"""How far a graph's probabilities may be from the model's; rounding is about 1e-6."""

_LARGEST_FILE = 1_900_000_000  # protobuf can't hold 2 GB
_ACTIVATIONS: dict[Task, nn.Module] = {
    "single_label": nn.Softmax(dim=1),
    "multi_label": nn.Sigmoid(),
    "regression": nn.Identity(),
}


class Served(nn.Module):
    """RGB in [0, 1], float32 [B, 3, S, S] -> probabilities [B, C]: the model with both its ends.

    Of a regression, the values. The logits are divided by the temperature before.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        task: Task = "single_label",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.activation, self.temperature = _ACTIVATIONS[task], temperature

    @classmethod
    def from_description(cls, model: nn.Module, description: dict[str, Any]) -> "Served":
        """A copy of the model on the CPU, ready to be traced."""
        inputs = description["preprocessing"]
        own = copy.deepcopy(model).to("cpu", torch.float32)
        own = own.to(memory_format=torch.contiguous_format)
        served = cls(
            own,
            inputs["mean"],
            inputs["std"],
            task=description.get("task", "single_label"),
            temperature=description.get("temperature", 1.0),
        )
        served.eval().requires_grad_(False)
        return served

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images - self.mean) / self.std)
        probabilities: Tensor = self.activation(logits / self.temperature)
        return probabilities


def write(
    folder: Path, model: nn.Module, description: dict[str, Any], formats: Sequence[Format]
) -> None:
    """The graphs among `formats`, each read back and compared with the model.

    Raises RuntimeError for a model that can't be traced, or whose graph gives other numbers.
    """
    wanted = [name for name in formats if name != "safetensors"]
    if not wanted:
        return
    served = Served.from_description(model, description)
    size = description["preprocessing"]["image_size"]
    with isolated(), _quiet():
        with _explained("a graph"):
            program = _trace(served, size)
        if "torch_export" in wanted:
            with _explained("torch_export"):
                torch.export.save(program, folder / FILES["torch_export"])
                _check(served, size, _run_torch(folder / FILES["torch_export"]))
        if "onnx" in wanted:
            with _explained("onnx"):
                _write_onnx(program, folder / FILES["onnx"])
                _check(served, size, _run_onnx(folder / FILES["onnx"]))


def _trace(served: Served, size: int) -> torch.export.ExportedProgram:
    example = (torch.zeros(2, 3, size, size),)  # of one image the size would become a constant
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
    weights = program.state_dict.values()
    large = sum(tensor.nbytes for tensor in weights) > _LARGEST_FILE
    converted.save(file, external_data=large)


def _run_torch(file: Path) -> Any:
    return torch.export.load(file).module()


def _run_onnx(file: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def _check(served: Served, size: int, run: Any) -> None:
    for count in (1, 3):  # the batch was traced with 2
        images = torch.rand(count, 3, size, size, generator=generator(0, "export", count))
        expected, found = served(images), run(images)
        if not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
            gap = float((expected - found).abs().max())
            raise ValueError(f"its outputs differ from the model's by up to {gap:.2g}")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the exporters raise what they please
        first = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"this model can't be exported as {name}: {first}; "
            "format='safetensors' needs no graph and works for every model"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk about their own inner life; errors are exceptions and come through."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    talk = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(talk), redirect_stderr(talk):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
