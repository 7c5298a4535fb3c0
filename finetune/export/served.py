"""A model as it is served: from RGB images to probabilities, and traced for export."""

import copy
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from finetune.export.description import Comparison, ModelDescription
from finetune.export.labelled_images import Batches, LabelledImages


class Served(nn.Module):
    """A model with its normalisation before it and its activation behind it.

    It maps RGB images in [0, 1], float32 [B, 3, S, S], to probabilities [B, C]; a regression's to
    values [B, C].
    """

    mean: Tensor
    std: Tensor
    shift: Tensor | None

    def __init__(self, model: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.model = model
        preprocessing = description.preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))
        self.task = description.task
        self.temperature = description.post_processing.temperature
        shift: Tensor | None = None
        if description.post_processing.priors is not None:
            zeros = torch.zeros(len(description.classes))
            shift = description.post_processing.shifted(zeros, description.classes)
        self.register_buffer("shift", shift)

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
        if self.shift is not None:
            outputs = outputs + self.shift
        return self.task.activation(outputs, self.temperature)


@dataclass
class ModelToExport:
    """A model and its description; what several formats need of it is made once.

    images: those of validation, if there are any. onnx_opset: of ONNX graphs; None is the
    exporter's own. comparisons: by format, what was found of those that compute less exactly.
    """

    model: nn.Module
    description: ModelDescription
    images: LabelledImages | None = None
    onnx_opset: int | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    @cached_property
    def served(self) -> Served:
        return Served.copy_of(self.model, self.description)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The served model as a graph of torch's operations, for any number of images."""
        # two images: with one, the size of the batch would become a constant of the graph
        example = (torch.zeros(2, *self.description.preprocessing.input_shape),)
        batch = torch.export.Dim("batch")
        return torch.export.export(self.served, example, dynamic_shapes=({0: batch},))

    @cached_property
    def onnx_program(self) -> torch.onnx.ONNXProgram:
        """The same graph in ONNX's operators, from which several formats are made.

        Raises ValueError where they can't be those of the opset.
        """
        converted = torch.onnx.export(
            self.program,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
            opset_version=self.onnx_opset,
        )
        assert converted is not None
        written_opset = converted.model.opset_imports[""]
        # where it can't convert a graph, the exporter leaves it as it was
        if self.onnx_opset is not None and written_opset != self.onnx_opset:
            raise ValueError(f"it is of opset {written_opset}, and can't become {self.onnx_opset}")
        return converted

    def labelled_batches(self) -> Batches:
        """Pairs of validation images, float32 [B, 3, H, W] in [0, 1], and their targets."""
        assert self.images is not None
        for inputs, targets in self.images.batches():
            yield inputs * self.served.std + self.served.mean, targets

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """The model's own probabilities or values for all validation images, and the targets."""
        answers: list[Tensor] = []
        all_targets: list[Tensor] = []
        for images, targets in self.labelled_batches():
            answers.append(self.served(images))
            all_targets.append(targets)
        return torch.cat(answers), torch.cat(all_targets)
