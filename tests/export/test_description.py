"""A description as plain data and back, also from what earlier versions wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from finetune import Learner, export, load_learner
from finetune.data.images.preprocessing import Preprocessing
from finetune.export.description import (
    GroupRecord,
    ModelDescription,
    PartCounts,
    PhaseRecord,
    TrainingRecord,
)
from finetune.models.classifier import Architecture
from finetune.tasks import MultiLabel, PostProcessing


def full_description() -> ModelDescription:
    """Nothing in it is as it is by default."""
    return ModelDescription(
        architecture=Architecture("test_vit", 2, 64, head="linear", dropout=0.25, scaled=True),
        classes=("left", "right"),
        task=MultiLabel(),
        preprocessing=Preprocessing(64, "pad", 0.9, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        post_processing=PostProcessing(1.5, {"left": 0.25}),
        formats=("safetensors", "onnx", "torch_export"),
        data={
            "train": PartCounts(20, {"left": 12, "right": 11}),
            "valid": PartCounts(5, {"left": 3, "right": 0}),
        },
        training=TrainingRecord(
            phases=(
                PhaseRecord("frozen", 1, 4, frozen=("body",), peak_lr=(0.0, 1e-3)),
                PhaseRecord("unfrozen", 2, 8, frozen=(), peak_lr=(1e-5, 1e-4), fraction=0.75),
            ),
            groups=(GroupRecord("body", 28, "AdamW", 0.1), GroupRecord("head", 10, "SGD", 0.0)),
            seed=7,
        ),
        validation={"loss": 0.5, "f1": None},
        versions={"finetune-vision": "0.1.0", "torch": "2.4"},
    )


def as_version_3(content: dict[str, Any]) -> dict[str, Any]:
    """Temperature and thresholds stood by themselves, and images were called pictures."""
    old = {name: value for name, value in content.items() if name != "post_processing"}
    old["data"] = {
        part: {"pictures": counts["images"], "classes": counts["classes"]}
        for part, counts in content["data"].items()
    }
    return {**old, **content["post_processing"], "version": 3}


def test_a_full_description_comes_back() -> None:
    description = full_description()
    content = description.to_dict()
    assert ModelDescription.from_dict(content) == description
    assert ModelDescription.from_dict(json.loads(json.dumps(content))) == description


def test_what_is_not_known_is_not_known_afterwards(tiny_description: ModelDescription) -> None:
    content = tiny_description.to_dict()
    assert "training" not in content
    assert ModelDescription.from_dict(content) == tiny_description


def test_an_old_description_comes_back() -> None:
    description = full_description()
    old = as_version_3(description.to_dict())
    assert ModelDescription.from_dict(old) == description


def test_a_model_of_version_3_is_loaded(trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path)
    thresholds = {"blue": 0.125, "green": 0.5, "red": 0.875}
    fitted = PostProcessing(1.5, thresholds)
    expected = replace(export.read_description(tmp_path), task=MultiLabel(), post_processing=fitted)
    content = as_version_3(expected.to_dict())
    assert content["temperature"] == 1.5
    assert content["thresholds"] == thresholds
    assert content["data"]["train"]["pictures"] == 19
    assert content["task"] == "multi_label"
    (tmp_path / "model.json").write_text(json.dumps(content))

    assert export.read_description(tmp_path) == expected
    loaded = load_learner(tmp_path)
    assert loaded.task == MultiLabel()
    assert loaded.classes == ("blue", "green", "red")
    assert (loaded.temperature, loaded.thresholds) == (1.5, thresholds)


def test_a_task_that_nobody_registered_says_what_to_do(
    tiny_description: ModelDescription, tmp_path: Path
) -> None:
    export.write(tmp_path, nn.Linear(2, 2), tiny_description)
    content = {**tiny_description.to_dict(), "task": "surgical"}
    (tmp_path / "model.json").write_text(json.dumps(content))
    message = r"got 'surgical'; .* after finetune\.tasks\.register\(MyTask\(\)\)"
    with pytest.raises(ValueError, match=message):
        ModelDescription.from_dict(content)
    with pytest.raises(ValueError, match=message):
        load_learner(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": None}, "no format version, a whole number, but None"),
        ({"version": "4"}, "no format version, a whole number, but '4'"),
        ({"data": None}, "model.json' can't be used"),
        ({"post_processing": None}, "model.json' can't be used"),
        ({"preprocessing": []}, "model.json' can't be used"),
        ({"task": 5}, "model.json' can't be used: .*5"),
        ({"post_processing": {"thresholds": {"a": 2}}}, r"model.json' .*: thresholds\['a'\]"),
        ({"classes": ["only one"]}, "model.json' .*: 1 names of classes need a model of 1 outputs"),
        ({"architecture": {"backbone": "test_resnet"}}, "model.json' can't be used"),
    ],
)
def test_a_damaged_description_is_named_with_its_file(
    tiny_description: ModelDescription, tmp_path: Path, damage: dict[str, Any], message: str
) -> None:
    export.write(tmp_path, nn.Linear(2, 2), tiny_description)
    content = {**tiny_description.to_dict(), **damage}
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        export.read_description(tmp_path)


def test_a_missing_entry_is_named(tiny_description: ModelDescription, tmp_path: Path) -> None:
    export.write(tmp_path, nn.Linear(2, 2), tiny_description)
    content = tiny_description.to_dict()
    del content["classes"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model\.json' has no 'classes'"):
        export.read_description(tmp_path)
