"""The card says what opens a folder elsewhere, and why something does not."""

from dataclasses import replace

import pytest

from finetune.export import ModelDescription
from finetune.export.elsewhere import in_other_libraries
from finetune.models.classifier import Architecture
from finetune.tasks import PostProcessing, Regression
from finetune.tasks.coverage import Coverage

LINEAR = Architecture("test_resnet", classes=3, image_size=8, head="linear")


def test_a_linear_head_opens(tiny_description: ModelDescription) -> None:
    text = in_other_libraries(replace(tiny_description, architecture=LINEAR))
    assert 'timm.create_model("local-dir:path/to/this/folder", pretrained=True)' in text
    assert 'pipeline("image-classification", model="path/to/this/folder")' in text
    assert "the whole image is resized first and cropped then" in text
    assert "They do not know" not in text


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        (Architecture("test_resnet", 3, 8), 'the head is of kind "mlp"'),
        (Architecture("torchvision/resnet18", 3, 32), "the backbone is of torchvision"),
        (
            Architecture(("test_resnet", "test_vit"), 3, 64, member_sizes=(64, 64)),
            "this one has several",
        ),
        (Architecture("deit_tiny_distilled_patch16_224", 3, 224, "linear"), "no such linear layer"),
    ],
    ids=["mlp", "torchvision", "several", "two classifiers"],
)
def test_what_can_not_be_opened_has_its_reason(
    tiny_description: ModelDescription, architecture: Architecture, reason: str
) -> None:
    text = in_other_libraries(replace(tiny_description, architecture=architecture))
    assert "They can't open this folder" in text
    assert reason in text


def test_so_has_a_task_that_they_do_not_have(tiny_description: ModelDescription) -> None:
    architecture = replace(LINEAR, scaled=True)
    text = in_other_libraries(
        replace(tiny_description, architecture=architecture, task=Regression())
    )
    assert "they have no task like `regression`" in text


def test_what_they_leave_out_is_named(tiny_description: ModelDescription) -> None:
    coverage = Coverage(0.9, {"a": 0.1, "b": 0.1, "c": 0.1})
    settings = PostProcessing(coverage=coverage)
    text = in_other_libraries(
        replace(tiny_description, architecture=LINEAR, post_processing=settings)
    )
    assert "They do not know the sets that hold the truth." in text


def test_a_folder_without_weights_has_no_such_section(tiny_description: ModelDescription) -> None:
    assert in_other_libraries(replace(tiny_description, formats=("onnx",))) == ""
