"""An exported model in a process that does not know finetune, with the code of its model card."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import CLOTHING, needs_clothing
from torch import nn

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.data.images.resize import Resize
from finetune.demo import BACKBONE, imagenet_weights
from finetune.export import FormatName
from finetune.image_size import ImageSize
from finetune.models.backbones import normalisation_of
from finetune.models.classifier import Architecture
from finetune.models.heads import HeadKind
from finetune.tasks import TaskName

FORMATS: tuple[FormatName, ...] = ("safetensors", "onnx", "torch_export")
SMALLER_FORMATS: tuple[FormatName, ...] = ("onnx_fp16", "onnx_int8")
# used in this order by one process, which has none of these modules by then
NEEDLESS: dict[FormatName, set[str]] = {
    "onnx": {"finetune", "torch", "timm"},
    "onnx_fp16": {"finetune", "torch", "timm"},
    "onnx_int8": {"finetune", "torch", "timm"},
    "torch_export": {"finetune", "timm"},
    "safetensors": {"finetune"},
}
# the images here are unlike those that calibrated the 8 bits
TOLERANCES = {"onnx_fp16": 0.01, "onnx_int8": 0.3}
RUN = """
import json, os, sys
answers = []
for folder, code in json.load(sys.stdin):
    os.chdir(folder)
    names = {}
    exec(code, names)
    modules = sorted({module.partition(".")[0] for module in sys.modules})
    answers.append([names["probabilities"].tolist(), modules])
print(json.dumps(answers))
"""


def code_blocks(folder: Path) -> list[str]:
    """First how to read an image, then how to load each format, then two more."""
    use = (folder / "README.md").read_text().partition("\n## Use\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", use, re.DOTALL)


def write_images(folder: Path) -> list[Path]:
    """A large JPEG, one that EXIF turns, and PNGs with transparency, 16 bits and a palette."""
    noise, (rows, columns) = np.random.default_rng(1), np.mgrid[0:300, 0:400]
    waves = np.stack([rows / 2, columns / 3, (rows * columns) % 251], axis=2)
    pixels = (waves + noise.normal(0, 20, waves.shape)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    see_through = image.resize((90, 60))
    see_through.putalpha(Image.fromarray(pixels[:60, :90, 0]))
    grey = Image.fromarray((pixels[:80, :70, 1].astype(np.uint16) << 8) + 77)
    palette = image.resize((70, 60)).quantize(8)
    names = ["large.jpg", "turned.jpg", "clear.png", "grey.png", "palette.png"]
    image.save(folder / names[0])
    image.save(folder / names[1], exif=exif)
    for name, own in zip(names[2:], (see_through, grey, palette), strict=True):
        own.save(folder / name, **({"transparency": 0} if own is palette else {}))
    return [folder / name for name in names]


def check_in_a_new_process(
    exported: dict[Path, Learner], images: list[Path], needless: frozenset[str] = frozenset()
) -> None:
    """What the model cards say gives the learners' probabilities in every format that is there.

    needless: further modules that must not be loaded.
    """
    tasks: list[tuple[Path, FormatName, str]] = []
    listed = ", ".join(f"read({str(path)!r})" for path in images)
    for folder in exported:
        read, *loads, _, _ = code_blocks(folder)
        for name, load in zip(
            json.loads((folder / "model.json").read_text())["formats"], loads, strict=True
        ):
            tasks.append((folder, name, read.replace('read("photo.jpg")', listed) + load))
    tasks.sort(key=lambda task: list(NEEDLESS).index(task[1]))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUN],
        input=json.dumps([(str(folder), code) for folder, _, code in tasks]),
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for (folder, name, _), (found, modules) in zip(tasks, answers, strict=True):
        predictions = exported[folder].predict(images)
        rows = [getattr(p, "probabilities", None) or p.values for p in predictions]
        expected = np.array([[*row.values()] for row in rows])
        assert np.ptp(expected, axis=0).max() > 0.01  # images that differ for the model
        assert not (NEEDLESS[name] | needless) & set(modules)
        tolerance = TOLERANCES.get(name, 1e-4)
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=f"{folder} {name}")


def learner_on(
    photos: Path,
    backbone: str,
    resize: Resize = "crop",
    head: HeadKind = "mlp",
    image_size: ImageSize = 64,
) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=image_size, batch_size=8, resize=resize)
    learner = vision_learner(data, backbone, weights=None, head=head, progress=False)
    learner.fine_tune(2)
    return learner


def test_every_format_gives_the_probabilities_of_the_learner(photos: Path, tmp_path: Path) -> None:
    # what smaller formats lose of a transformer is measured in test_smaller_onnx.py
    formats = {"test_resnet": (*FORMATS, *SMALLER_FORMATS), "test_vit": FORMATS}
    exported = {tmp_path / name: learner_on(photos, name) for name in formats}
    for folder, learner in exported.items():
        learner.export(folder, formats[folder.name])
        # how to read an image comes first, and two more last
        assert len(code_blocks(folder)) == 3 + len(formats[folder.name])
    check_in_a_new_process(exported, write_images(tmp_path))


@pytest.mark.slow
def test_a_linear_head_in_every_format(photos: Path, tmp_path: Path) -> None:
    learner = learner_on(photos, "test_vit", head="linear")
    learner.export(tmp_path / "model", FORMATS)
    check_in_a_new_process({tmp_path / "model": learner}, write_images(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_the_other_tasks(photos: Path, tmp_path: Path, task: TaskName) -> None:
    files = sorted(photos.glob("*/*"))
    labels = [[file.parent.name] for file in files]
    targets = labels if task == "multi_label" else [[10.0 * i, i % 3] for i in range(len(files))]
    data = ImageDataLoaders.from_lists(files, targets, task=task, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    learner.fine_tune(2)
    learner.export(tmp_path / "model", FORMATS)
    check_in_a_new_process({tmp_path / "model": learner}, write_images(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["pad", "squish"])
def test_the_other_ways_of_resizing(photos: Path, tmp_path: Path, resize: Resize) -> None:
    learner = learner_on(photos, "test_resnet", resize)
    learner.export(tmp_path / "model")
    check_in_a_new_process({tmp_path / "model": learner}, write_images(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["crop", "pad", "squish"])
def test_rectangles(photos: Path, tmp_path: Path, resize: Resize) -> None:
    learner = learner_on(photos, "test_vit", resize, image_size=(48, 80))
    learner.export(tmp_path / "model", FORMATS)
    check_in_a_new_process({tmp_path / "model": learner}, write_images(tmp_path))


@pytest.mark.slow
def test_a_torchvision_backbone_needs_torchvision_alone(photos: Path, tmp_path: Path) -> None:
    learner = learner_on(photos, "torchvision/resnet18")
    learner.export(tmp_path / "model")
    check_in_a_new_process(
        {tmp_path / "model": learner}, write_images(tmp_path), frozenset({"timm"})
    )


@pytest.mark.slow
def test_several_backbones_in_every_format(photos: Path, tmp_path: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=64, batch_size=8)
    architecture = Architecture(
        ("test_vit", "torchvision/squeezenet1_1"), 3, 64, member_sizes=(64, 48)
    )
    model = architecture.build()
    data = data.for_backbone(64, *normalisation_of(model.get_submodule("backbone")))
    loss = nn.CrossEntropyLoss()
    learner = Learner(data, model, loss=loss, metrics="accuracy", split="halves", progress=False)
    learner.fine_tune(2)
    learner.export(tmp_path / "model", FORMATS)
    check_in_a_new_process({tmp_path / "model": learner}, write_images(tmp_path))


@pytest.mark.slow
@needs_clothing
def test_every_format_of_an_imagenet_backbone_on_real_photos(tmp_path: Path) -> None:
    weights = imagenet_weights(tmp_path / "weights.safetensors")
    data = ImageDataLoaders.from_folder(CLOTHING / "validation", image_size=128, batch_size=64)
    learner = vision_learner(data, BACKBONE, weights=weights, progress=False)
    learner.fine_tune(1)
    learner.export(tmp_path / "model", FORMATS)
    images = [Path(str(item)).resolve() for item in data.valid_examples.items[::5]]
    check_in_a_new_process({tmp_path / "model": learner}, images)
