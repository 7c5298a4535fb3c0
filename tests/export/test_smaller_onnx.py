"""Graphs of fewer bits: what they hold, what is measured of them, and what is said of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from support import CLOTHING, needs_clothing
from torch import Tensor, nn

from finetune import ImageDataLoaders, Learner, export, vision_learner
from finetune.cli import main
from finetune.demo import BACKBONE, imagenet_weights
from finetune.export.card import model_card
from finetune.export.description import ModelDescription
from finetune.export.labelled_images import Batches, LabelledImages
from finetune.models.backbone_objects import BackboneLike

SMALLER = ("onnx_fp16", "onnx_int8")


def learner_on(photos: Path, backbone: BackboneLike, **options: Any) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, **options)
    learner = vision_learner(data, backbone, weights=None, head="linear", progress=False)
    learner.fit(2, 1e-3)
    return learner


@pytest.fixture(scope="module")
def exported(trained: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smaller") / "model"
    trained.export(folder, ["onnx", "safetensors", *SMALLER])
    return folder


def element_types(file: Path) -> set[str]:
    """Those of the weights and of what goes in and comes out."""
    graph = onnx.load(file).graph
    types = {tensor.data_type for tensor in graph.initializer}
    return {onnx.TensorProto.DataType.Name(number) for number in types}


def test_fp16_has_its_ends_in_float32(exported: Path) -> None:
    file = exported / "model.fp16.onnx"
    assert "FLOAT16" in element_types(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    ends = [*session.get_inputs(), *session.get_outputs()]
    assert [end.type for end in ends] == ["tensor(float)", "tensor(float)"]
    size = (exported / "model.onnx").stat().st_size
    assert file.stat().st_size < 0.7 * size


def test_int8_keeps_the_head_and_the_ends_exact(exported: Path) -> None:
    graph = onnx.load(exported / "model.int8.onnx").graph
    operators = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Softmax", "Gemm"):
            before = producers.get(node.input[0])
            assert before is None or before.op_type != "DequantizeLinear"
    weights = {tensor.name: tensor for tensor in graph.initializer}
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in weights.values())


def test_any_number_of_images_goes_in(exported: Path) -> None:
    for name in ("model.fp16.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(exported / name, providers=["CPUExecutionProvider"])
        for count in (1, 2, 7):
            (found,) = session.run(None, {"images": torch.rand(count, 3, 32, 32).numpy()})
            assert found.shape == (count, 3)


def test_what_they_lose_is_measured_on_validation_images(
    exported: Path, trained: Learner, photos: Path
) -> None:
    content = json.loads((exported / "model.json").read_text())["comparisons"]
    assert set(content) == set(SMALLER)
    items = trained.data.valid_examples.items
    images = torch.cat([trained.data.inputs([item], torch.device("cpu")) for item in items])
    mean, std = trained.data.preprocessing.normalisation(torch.device("cpu"))
    pixels = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    expected = trained.predictor().probabilities(items)
    for name, file in (("onnx_fp16", "model.fp16.onnx"), ("onnx_int8", "model.int8.onnx")):
        session = onnxruntime.InferenceSession(exported / file, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])
        difference = float((found - expected).abs().max())
        assert content[name]["images"] == len(items)
        assert content[name]["before"]["accuracy"] == trained.validate()["accuracy"]
        assert content[name]["greatest_difference"] == pytest.approx(difference, abs=1e-4)


def test_the_card_says_what_they_lose(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "`model.int8.onnx`, with ONNX Runtime: the backbone in 8 bits" in card
    assert card.count("On 5 validation images: accuracy ") == 2
    assert card.count("of the model and") == 2


def test_a_later_export_forgets_what_it_does_not_write(exported: Path, tmp_path: Path) -> None:
    assert main(["export", str(exported), "--output", str(tmp_path / "out")]) == 0
    assert "comparisons" not in json.loads((tmp_path / "out" / "model.json").read_text())


@pytest.mark.parametrize(
    "backbone",
    [
        "test_vit",
        pytest.param("test_convnext", marks=pytest.mark.slow),
        pytest.param(["test_resnet", "test_vit"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_backbones_and_several(photos: Path, tmp_path: Path, backbone: Any) -> None:
    learner = learner_on(photos, backbone)
    learner.export(tmp_path / "model", SMALLER)
    content = json.loads((tmp_path / "model" / "model.json").read_text())["comparisons"]
    assert content["onnx_fp16"]["greatest_difference"] < 0.01
    assert content["onnx_int8"]["greatest_difference"] < 0.2


def test_several_labels_and_numbers(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*"))
    labels = {
        "multi_label": [[file.parent.name] for file in files],
        "regression": [float(len(file.parent.name)) for file in files],
    }
    for task, names in {"multi_label": "f1", "regression": "mae"}.items():
        data = ImageDataLoaders.from_lists(
            files, labels[task], task=task, image_size=32, batch_size=8
        )
        learner = vision_learner(data, "test_resnet", weights=None, progress=False)
        learner.fit(1, 1e-3)
        learner.export(tmp_path / task, "onnx_int8")
        content = json.loads((tmp_path / task / "model.json").read_text())["comparisons"]
        assert names in content["onnx_int8"]["before"]
        assert content["onnx_int8"]["same_answers"] is None


def test_fp16_needs_no_images(exported: Path, tmp_path: Path) -> None:
    words = ["export", str(exported), "--format", "onnx_fp16", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "half the size, in float16" in card
    assert "validation images: accuracy" not in card


class FineDifferences(nn.Module):
    """Classes that differ by a thousandth of a value, of which eight bits see nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.init.eye_(self.backbone.weight[:, :, 0, 0])
        nn.init.constant_(self.backbone.bias, 100.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def test_a_file_that_answers_worse_is_said_to_do(
    tiny_description: ModelDescription, tmp_path: Path
) -> None:
    model = FineDifferences().eval().requires_grad_(False)
    inputs = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs[range(100), torch.arange(100) % 3] += 0.05
    targets = model(inputs).argmax(dim=1)

    def batches() -> Batches:
        yield inputs, targets

    description = replace(tiny_description, formats=("onnx_int8",))
    with pytest.warns(UserWarning, match=r"'onnx_int8' loses much .*: accuracy is 1\.0000 before"):
        export.write(
            tmp_path / "model",
            model,
            description,
            card=lambda known: model_card(known, ""),
            images=LabelledImages(batches),
        )
    assert "**It answers worse than the model.**" in (tmp_path / "model/README.md").read_text()


@needs_clothing
@pytest.mark.slow
def test_photos_of_clothing_lose_little(tmp_path: Path) -> None:
    files = sorted((CLOTHING / "train").glob("*/*"))[::10]
    labels = [file.parent.name for file in files]
    data = ImageDataLoaders.from_lists(files, labels, image_size=224, batch_size=32)
    weights = imagenet_weights(tmp_path / "imagenet.safetensors")
    learner = vision_learner(data, BACKBONE, weights=weights, precision="fp32", progress=False)
    learner.probe()
    learner.export(tmp_path / "model", SMALLER)
    content = json.loads((tmp_path / "model" / "model.json").read_text())["comparisons"]
    assert content["onnx_fp16"]["greatest_difference"] < 0.02
    int8 = content["onnx_int8"]
    assert int8["after"]["accuracy"] > int8["before"]["accuracy"] - 0.05
    assert int8["same_answers"] > 0.9


def test_a_folder_of_images_calibrates_in_a_terminal(
    exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(exported), "--format", "onnx_int8", "--output", str(tmp_path / "out")]
    assert main(words) == 1
    assert "needs labelled images to be calibrated with" in capsys.readouterr().err
    assert main([*words, "--images", str(photos)]) == 0
    content = json.loads((tmp_path / "out" / "model.json").read_text())["comparisons"]
    assert content["onnx_int8"]["images"] == len(list(photos.glob("*/*")))


def test_the_opset_is_that_which_is_asked_for(trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path / "model", ["onnx", "onnx_fp16"], onnx_opset=18)
    for name in ("model.onnx", "model.fp16.onnx"):
        model = onnx.load(tmp_path / "model" / name)
        assert [each.version for each in model.opset_import if not each.domain] == [18]


def test_an_opset_that_can_not_be_written(trained: Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"onnx_opset must be at least 18, got 17: torch's"):
        trained.export(tmp_path / "model", "onnx", onnx_opset=17)
    with pytest.raises(RuntimeError, match=r"can't be exported as onnx: .*99"):
        trained.export(tmp_path / "model", "onnx", onnx_opset=99)
    assert not (tmp_path / "model").exists()
