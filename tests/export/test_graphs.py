"""Graphs: compared with the model when they are written, without a trace elsewhere."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.export import graphs
from finetune.export.formats import ONNX_DATA
from finetune.export.graphs import Served

INPUTS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "image_size": 8}
DESCRIPTION = {"preprocessing": INPUTS}


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


def test_the_ends_are_normalisation_and_probabilities() -> None:
    images, model = torch.rand(2, 3, 8, 8), tiny().eval()
    mean, std = (torch.tensor(INPUTS[name]).view(3, 1, 1) for name in ("mean", "std"))
    logits = model((images - mean) / std)
    served = Served.from_description(model, DESCRIPTION)
    torch.testing.assert_close(served(images), logits.softmax(dim=1))
    several = {**DESCRIPTION, "task": "multi_label", "temperature": 2.0}
    served = Served.from_description(model, several)
    torch.testing.assert_close(served(images), (logits / 2).sigmoid())


def test_a_graph_takes_any_number_of_images(tmp_path: Path) -> None:
    model = tiny()
    graphs.write(tmp_path, model, DESCRIPTION, ("torch_export",))
    program = torch.export.load(tmp_path / "model.pt2").module()
    served = Served.from_description(model, DESCRIPTION)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 8, 8)
        torch.testing.assert_close(program(images), served(images))


def test_the_model_and_the_random_numbers_stay_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny().to(memory_format=torch.channels_last).train()
    model[0].requires_grad_(False)
    before, state = torch.get_rng_state(), {n: v.clone() for n, v in model.state_dict().items()}
    graphs.write(tmp_path, model, DESCRIPTION, ("torch_export", "onnx"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_weights_beyond_protobuf_go_into_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_LARGEST_FILE", 10)
    graphs.write(tmp_path, tiny(), DESCRIPTION, ("onnx",))  # which reads it back
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", ONNX_DATA}


def test_what_exporters_say_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    graphs.write(tmp_path, Talkative(), DESCRIPTION, ("torch_export",))
    assert capfd.readouterr() == ("", "")
    assert "this is slow" not in caplog.text
    logging.getLogger("torch.onnx").warning("as before")
    assert "as before" in caplog.text


def test_a_model_that_is_no_graph_is_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"can't be exported as a graph: .*'safetensors'"):
        graphs.write(tmp_path, OneByOne(), DESCRIPTION, ("onnx",))


def test_a_graph_with_other_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"torch_export: its outputs differ .* by up to 0"):
        graphs.write(tmp_path, Unsteady(), DESCRIPTION, ("torch_export",))
