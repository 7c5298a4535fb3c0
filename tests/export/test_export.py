"""An exported folder: safetensors and JSON, whole or not at all, loaded without unpickling."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune import Learner, export, load_learner
from finetune.export import ModelDescription


@pytest.fixture
def folder(trained: Learner, tmp_path: Path) -> Path:
    trained.export(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_holds_weights_json_and_a_card_only(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "model.json", "model.safetensors"]
    description = json.loads((folder / "model.json").read_text())
    assert description["classes"] == ["blue", "green", "red"]
    assert description["architecture"]["backbone"] == "test_efficientnet"
    assert description["preprocessing"]["image_size"] == 32
    assert {"finetune-vision", "torch", "timm"} <= description["versions"].keys()


def test_weights_that_are_no_numbers_are_not_exported(trained: Learner, tmp_path: Path) -> None:
    weight = next(trained.model.head.parameters())
    before = weight.detach().clone()
    try:
        weight.data[0] = torch.nan
        with pytest.raises(ValueError, match=r"NaN or infinite in 'head\..*nothing was exported"):
            trained.export(tmp_path / "broken")
    finally:
        weight.data.copy_(before)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_are_the_same_in_a_new_process(
    folder: Path, trained: Learner, photos: Path
) -> None:
    images = [str(path) for path in sorted(photos.glob("*/00[0-2].jpg"))]
    code = (
        "import json, sys\nfrom finetune import load_learner\n"
        "print(json.dumps(load_learner(sys.argv[1]).predict(sys.argv[2:])))"
    )
    command = [sys.executable, "-c", code, str(folder), *images]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for ours, theirs in zip(trained.predict(images), json.loads(done.stdout), strict=True):
        assert ours.label == theirs[0]
        assert ours.probabilities == pytest.approx(theirs[2], abs=1e-5)


def test_an_existing_folder_is_not_overwritten(folder: Path, trained: Learner) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"exists already.*overwrite=True"):
        trained.export(folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_overwrite_replaces_a_model(folder: Path, tiny_description: ModelDescription) -> None:
    export.write(folder, nn.Linear(2, 2), tiny_description, overwrite=True)
    assert export.read_description(folder).classes == ("a", "b", "c")


def test_overwrite_spares_a_folder_with_anything_else_in_it(
    folder: Path, tiny_description: ModelDescription
) -> None:
    (folder / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match=r"holds other files and stays: thesis\.txt"):
        export.write(folder, nn.Linear(2, 2), tiny_description, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "irreplaceable"


def test_overwrite_spares_a_folder_whose_files_only_have_our_names(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    (tmp_path / "README.md").write_text("my own")
    with pytest.raises(FileExistsError, match=r"holds other files and stays: README\.md"):
        export.write(tmp_path, nn.Linear(2, 2), tiny_description, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "my own"


def test_overwrite_does_not_replace_a_file(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(FileExistsError, match="exists already"):
        export.write(tmp_path / "model", nn.Linear(2, 2), tiny_description, overwrite=True)
    assert (tmp_path / "model").read_text() == "a file"


def test_overwrite_removes_the_files_of_other_formats(folder: Path, trained: Learner) -> None:
    (folder / "model.onnx").write_bytes(b"of the earlier model")
    trained.export(folder, overwrite=True)
    assert not (folder / "model.onnx").exists()


def test_a_folder_without_weights_says_what_it_holds(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors; .* as onnx without"):
        load_learner(folder)


def test_a_description_of_the_first_version_is_still_read(folder: Path, photos: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    old = {"image_size", "resize", "crop_fraction", "mean", "std"}
    description["preprocessing"] = {k: description["preprocessing"][k] for k in old}
    names = ("format", "architecture", "classes", "preprocessing", "versions")
    kept = {name: description[name] for name in names}
    (folder / "model.json").write_text(json.dumps({**kept, "version": 1}))
    assert load_learner(folder).predict(photos / "red" / "000.jpg").label in (
        "blue",
        "green",
        "red",
    )


def test_a_failing_export_leaves_nothing_behind(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    unwritable: Any = {"torch": object()}
    description = replace(tiny_description, versions=unwritable)
    with pytest.raises(TypeError, match="not JSON serializable"):
        export.write(tmp_path / "model", nn.Linear(2, 2), description)
    assert list(tmp_path.iterdir()) == []


def test_tied_weights_and_layouts_survive(
    tmp_path: Path, tiny_description: ModelDescription
) -> None:
    def model() -> nn.Module:
        tied = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        tied[1].weight = tied[0].weight
        return tied.to(memory_format=torch.channels_last)

    first, second = model(), model()
    export.write(tmp_path / "model", first, tiny_description)
    export.read_weights(tmp_path / "model", second)
    assert torch.equal(first[0].weight, second[0].weight)
    assert second[0].weight is second[1].weight


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no exported model: it has no model\.json"):
        load_learner(tmp_path)


def test_damaged_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors' can't be loaded"):
        load_learner(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"format": "cake"}', "does not describe a finetune model"),
        ('{"format": "finetune model", "version": 99}', "version 99.*update finetune"),
    ],
)
def test_a_wrong_description_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_learner(folder)
