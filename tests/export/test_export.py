"""An exported folder: safetensors and JSON, whole or not at all, loaded without unpickling."""

import json
import random
import resource
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python
from torch import nn

from finetune import (
    Callback,
    ImageDataLoaders,
    Learner,
    WeightsError,
    export,
    load_learner,
    vision_learner,
)
from finetune.export import ModelDescription
from finetune.models.backbones import read_weights
from finetune.training.events import EpochEnd, Precompute


@pytest.fixture
def folder(trained: Learner, tmp_path: Path) -> Path:
    trained.export(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_holds_weights_json_and_a_card_only(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.json", "model.safetensors"]
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
    done = run_python(code, folder, *images)
    assert done.returncode == 0, done.stderr
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
        ("null", "does not describe a finetune model"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_wrong_description_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_learner(folder)


def flip(file: Path, place: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def test_a_flipped_bit_of_a_weight_is_told(folder: Path) -> None:
    flip(folder / "model.safetensors", -1000, 3)
    with pytest.raises(ValueError, match=r"safetensors' can't be loaded: its SHA-256 is not that"):
        load_learner(folder)
    with pytest.raises(WeightsError, match=r"no readable weights file: its SHA-256 is not that"):
        read_weights(folder / "model.safetensors")


def test_a_changed_description_is_told(folder: Path) -> None:
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"temperature": 1.0', '"temperature": 9.0'))
    with pytest.raises(ValueError, match=r"model.json' is damaged: .* remove the key 'sha256'"):
        load_learner(folder)


def test_no_flipped_bit_of_the_description_changes_it(folder: Path) -> None:
    file = folder / "model.json"
    whole, expected = file.read_bytes(), export.read_description(folder)
    chance = random.Random(0)
    for _ in range(300):
        flip(file, chance.randrange(len(whole)), chance.randrange(8))
        with suppress(ValueError):
            assert export.read_description(folder) == expected
        file.write_bytes(whole)


def test_the_same_values_may_be_written_otherwise(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content, sort_keys=True))
    load_learner(folder)


def test_a_full_disk_leaves_the_old_model(folder: Path, trained: Learner) -> None:
    before = (folder / "model.safetensors").read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(OSError, match=r"can't write the model, an old one is intact: .*model'"):
            trained.export(folder, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


class Export(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.learner.export(self.folder, overwrite=True)


def test_in_the_middle_of_a_fit_it_has_the_averaged_weights(photos: Path, tmp_path: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    callback = Export(tmp_path / "model")
    options = {"ema": 0.9, "progress": False, "callbacks": [callback], "device": "cpu"}
    learner = vision_learner(data, "test_resnet", weights=None, **options)
    callback.learner = learner
    learner.fit(1, 1e-2)
    loaded = load_learner(tmp_path / "model").model.state_dict()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.slow
def test_in_a_phase_on_kept_features_the_graph_is_of_the_whole_model(
    photos: Path, tmp_path: Path
) -> None:
    class Look(Callback):
        def on_epoch_end(self, event: EpochEnd) -> None:
            learner.export(tmp_path / "model", ["safetensors", "torch_export"])
            images = torch.rand(2, 3, 32, 32)
            graph = torch.export.load(tmp_path / "model" / "model.pt2").module()
            loaded = load_learner(tmp_path / "model")
            mean, std = torch.tensor(
                [learner.data.preprocessing.mean, learner.data.preprocessing.std]
            )
            outputs = loaded.model((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
            assert torch.allclose(graph(images), outputs.softmax(1), atol=1e-5)
            precomputed.append(True)

        def on_precompute(self, event: Precompute) -> None:
            precomputed.append(False)

    precomputed: list[bool] = []
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, device="cpu")
    learner.freeze()
    learner.fit(1, 1e-2, callbacks=[Look()])
    assert precomputed[0] is False
    assert precomputed[-1] is True


def test_what_was_calibrated_survives_files_and_the_export(
    trained: Learner, photos: Path, tmp_path: Path
) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)

    def new_learner() -> Learner:
        return vision_learner(data, "test_efficientnet", weights=None, progress=False)

    first, second = new_learner(), new_learner()
    first.fit(1)
    temperature = first.calibrate()
    first.save(tmp_path / "run.ckpt")
    second.load(tmp_path / "run.ckpt")
    second.export(tmp_path / "model")
    assert temperature != 1
    assert load_learner(tmp_path / "model").temperature == temperature
    image = photos / "red" / "000.jpg"
    assert second.predict(image).probability == first.predict(image).probability
