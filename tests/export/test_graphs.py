"""Graphs: compared with the model when they are written, without a trace elsewhere."""

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.export import ModelDescription, onnx
from finetune.export.formats import formats_of
from finetune.export.served import ModelToExport, Served
from finetune.tasks import MultiLabel, PostProcessing


def tiny(features: int = 3) -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(4, features))


class OneByOne(nn.Module):
    """Its code depends on how many images there are."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([image.mean((1, 2)) for image in images])


class Talkative(nn.Module):
    """Says what the exporters say, on every way that they have."""

    def forward(self, images: Tensor) -> Tensor:
        warnings.warn("this is deprecated", stacklevel=2)
        logging.getLogger("torch.onnx").warning("this is slow")
        print("this is done")
        return images.mean((2, 3))


class Unsteady(nn.Module):
    """Every call gives another answer; a graph keeps the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean((2, 3)) * torch.tensor([1.0, 1.0, 10.0 * self.calls])


def write(folder: Path, model: nn.Module, description: ModelDescription, *formats: str) -> None:
    exported = ModelToExport(model, description)
    for export_format in formats_of(formats):
        export_format.write(folder, exported)


def test_the_ends_are_normalisation_and_probabilities(tiny_description: ModelDescription) -> None:
    images, model = torch.rand(2, 3, 8, 8), tiny().eval()
    preprocessing = tiny_description.preprocessing
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    logits = model((images - mean) / std)
    served = Served.copy_of(model, tiny_description)
    torch.testing.assert_close(served(images), logits.softmax(dim=1))
    several = replace(
        tiny_description, task=MultiLabel(), post_processing=PostProcessing(temperature=2.0)
    )
    served = Served.copy_of(model, several)
    torch.testing.assert_close(served(images), (logits / 2).sigmoid())


def test_a_graph_takes_any_number_of_images(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    model = tiny()
    write(tmp_path, model, tiny_description, "torch_export")
    program = torch.export.load(tmp_path / "model.pt2").module()
    served = Served.copy_of(model, tiny_description)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 8, 8)
        torch.testing.assert_close(program(images), served(images))


def test_the_model_and_the_random_numbers_stay_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], tiny_description: ModelDescription
) -> None:
    model = tiny().to(memory_format=torch.channels_last).train()
    model[0].requires_grad_(False)
    before, state = torch.get_rng_state(), {n: v.clone() for n, v in model.state_dict().items()}
    write(tmp_path, model, tiny_description, "torch_export", "onnx")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_weights_beyond_protobuf_go_into_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_description: ModelDescription
) -> None:
    monkeypatch.setattr(onnx, "LARGEST_FILE", 10)
    write(tmp_path, tiny(), tiny_description, "onnx")  # which reads it back
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_what_exporters_say_is_not_shown(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tiny_description: ModelDescription,
) -> None:
    write(tmp_path, Talkative(), tiny_description, "torch_export")
    assert capfd.readouterr() == ("", "")
    assert "this is slow" not in caplog.text
    logging.getLogger("torch.onnx").warning("as before")
    assert "as before" in caplog.text


def test_a_model_that_is_no_graph_is_named_with_a_way_out(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    with pytest.raises(RuntimeError, match=r"can't be exported as a graph: .*'safetensors'"):
        write(tmp_path, OneByOne(), tiny_description, "onnx")


def test_a_graph_with_other_outputs_is_refused(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    with pytest.raises(RuntimeError, match=r"torch_export: its outputs differ .* by up to 0"):
        write(tmp_path, Unsteady(), tiny_description, "torch_export")
