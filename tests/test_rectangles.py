"""Images that are no squares: `image_size=(height, width)`, all the way through the house."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import copy_of, same_state

from finetune import ImageDataLoaders, Learner, compare, load_learner, vision_learner
from finetune.cli import main

SIZE = (32, 64)
BACKBONES = ["test_resnet", "test_vit", "test_convnext"]


def images(count: int = 16) -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    drawn = []
    for number in range(count):
        height, width = [(40, 90), (60, 60), (90, 40)][number % 3]
        pixels = noise.integers(0, 100, (height, width, 3), dtype=np.uint8)
        pixels[..., number % 2] += 120
        drawn.append(pixels)
    return drawn


def data(**options: object) -> ImageDataLoaders:
    settings = {"image_size": SIZE, "batch_size": 4, **options}
    return ImageDataLoaders.from_lists(images(), ["red", "green"] * 8, **settings)  # type: ignore[arg-type]


def learner_of(backbone: str | list[str] = "test_resnet", **options: object) -> Learner:
    return vision_learner(data(**options), backbone, weights=None, progress=False)


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_batches_have_the_size(resize: str) -> None:
    loaders = data(resize=resize)
    for view in (None, 0):
        for batch in loaders.train.epoch(0, 0):
            assert loaders.prepare(batch, view).inputs.shape == (len(batch.inputs), 3, *SIZE)
    assert "32 x 64 px" in repr(loaders)


def test_equal_sides_are_a_square() -> None:
    ours, squares = data(image_size=(32, 32)), data(image_size=32)
    assert ours.fingerprint() == squares.fingerprint()
    assert ours.fingerprint() != data().fingerprint()


def test_a_cache_folder_keeps_them_between_runs(photos: Path, tmp_path: Path) -> None:
    batches = []
    for _ in range(2):
        loaders = ImageDataLoaders.from_folder(
            photos, image_size=SIZE, batch_size=4, cache_folder=tmp_path, num_workers=1
        )
        batches.append(torch.cat([batch.inputs for batch in loaders.valid.epoch(0, 0)]))
        del loaders
    assert torch.equal(*batches)
    assert batches[0].shape[1:] == (3, 36, 74)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_kind_of_backbone_learns_predicts_and_shows_where(backbone: str) -> None:
    learner = learner_of(backbone)
    learner.fine_tune(1)
    prediction = learner.predict(images()[0])
    assert prediction.label in ("red", "green")
    shown = learner.activation_map(images()[0])
    assert shown.values.shape == SIZE


def test_views_of_the_user(tmp_path: Path) -> None:
    learner = learner_of(augment=lambda image: image.flip(2))
    learner.fine_tune(1, freeze_epochs=1)
    assert np.isfinite(learner.history.epochs[-1].train_loss)


def test_a_run_that_goes_on_ends_alike(tmp_path: Path) -> None:
    whole = learner_of()
    whole.fine_tune(1)
    first = learner_of()
    first.fine_tune(1, checkpoint=tmp_path / "run.ckpt")
    again = learner_of()
    again.fine_tune(1, checkpoint=tmp_path / "run.ckpt")
    assert same_state(copy_of(again.model.state_dict()), whole.model.state_dict())


def test_several_backbones_side_by_side() -> None:
    learner = learner_of(["test_resnet", "test_vit"])
    learner.probe()
    assert learner.predict(images()[0]).label in ("red", "green")


def test_another_size_in_the_middle() -> None:
    learner = learner_of()
    learner.fine_tune(1)
    learner.data = data(image_size=(64, 32))
    learner.fit_one_cycle(1)
    assert learner.predict(images()[0]).label in ("red", "green")
    assert learner.activation_map(images()[0]).values.shape == (64, 32)


def test_backbones_are_compared_in_the_size() -> None:
    table = str(compare(data(), ["test_resnet"], weights={"test_resnet": None}, progress=False))
    assert "32 x 64" in table


def test_an_export_answers_alike_and_says_the_size(tmp_path: Path) -> None:
    learner = learner_of()
    learner.probe()
    learner.export(tmp_path / "model", ["safetensors", "onnx"])
    photo = tmp_path / "model" / "photo.png"
    Image.fromarray(images()[0]).save(photo)
    expected = learner.predict(photo).probabilities
    loaded = load_learner(tmp_path / "model").predict(photo).probabilities
    assert loaded == pytest.approx(expected, abs=1e-5)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["formats"]["onnx"]["input"]["shape"] == ["batch", 3, *SIZE]
    # timm's config has one fraction for both sides, and could say this by rounding alone
    assert not (tmp_path / "model" / "config.json").exists()
    assert "RGB images of 32 x 64 pixels" in (tmp_path / "model" / "README.md").read_text()


def test_the_command_takes_height_and_width(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    size = ["--image-size", "[32, 64]", "--batch-size", "8"]
    command = ["train", str(photos), "--model", "test_resnet", "--weights", "null", *size]
    assert main([*command, "--probe", "--output", str(output)]) == 0
    assert "32 x 64 px" in capsys.readouterr().out
    described = json.loads((output / "model" / "model.json").read_text())
    assert described["preprocessing"]["image_size"] == [32, 64]
    assert main(["predict", str(output), str(photos / "red" / "000.jpg")]) == 0


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((32, 64, 3), r"image_size must be one number or \(height, width\), got \(32, 64, 3\)"),
        ((32, 0), "width in image_size must be a whole number of at least 1"),
        ("32x64", "image_size must be a whole number of pixels, or"),
    ],
)
def test_what_is_no_size_is_refused(size: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        data(image_size=size)
