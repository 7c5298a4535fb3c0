"""config.json: timm and transformers load an exported folder on their own, without a network."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.resize import Resize
from finetune.export import ModelDescription, timm_config
from finetune.models.heads import HeadKind
from finetune.tasks import TaskName

SIZE = 64
TOLERANCE = 1e-5


def learner_on(
    photos: Path,
    backbone: str,
    resize: Resize = "squish",
    task: TaskName = "single_label",
    head: HeadKind = "linear",
) -> Learner:
    files = sorted(photos.glob("*/*"))
    labels: list[Any] = [file.parent.name for file in files]
    if task == "multi_label":
        labels = [[name] for name in labels]
    data = ImageDataLoaders.from_lists(
        files, labels, task=task, image_size=SIZE, batch_size=8, resize=resize
    )
    learner = vision_learner(data, backbone, weights=None, head=head, progress=False)
    learner.fine_tune(2, base_lr=3e-3)
    return learner


def uncertain(learner: Learner) -> Learner:
    """With a temperature and other shares of the classes, of which timm knows nothing."""
    settings = replace(learner.trainer.post_processing, temperature=1.7)
    learner.trainer.post_processing = settings
    learner.adjust_priors({"blue": 0.6, "green": 0.3, "red": 0.1})
    return learner


def in_transformers(folder: Path, files: list[Path], classes: tuple[str, ...]) -> np.ndarray:
    """[files, classes], from the files as transformers reads them."""
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder))
    rows = []
    for answers in classify([str(file) for file in files], top_k=len(classes)):
        by_name = {answer["label"]: answer["score"] for answer in answers}
        rows.append([by_name[name] for name in classes])
    return np.array(rows)


def from_timm(folder: Path) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*"))[::3]


def prepared(learner: Learner, files: list[Path]) -> Tensor:
    inputs: Tensor = learner.data.inputs(files, torch.device("cpu"))
    return inputs


@pytest.mark.filterwarnings("default")  # of transformers' own
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_transformers_and_timm_give_our_probabilities(
    photos: Path, files: list[Path], tmp_path: Path, backbone: str
) -> None:
    learner = uncertain(learner_on(photos, backbone))
    learner.export(tmp_path / "model")
    predictor = learner.predictor()
    expected = predictor.probabilities(files).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01  # images that differ for the model
    with torch.no_grad():
        logits = from_timm(tmp_path / "model")(prepared(learner, files))
    np.testing.assert_allclose(logits.softmax(dim=1), expected, atol=TOLERANCE)
    found = in_transformers(tmp_path / "model", files, predictor.classes or ())
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.filterwarnings("default")
def test_several_labels_have_a_probability_each(
    photos: Path, files: list[Path], tmp_path: Path
) -> None:
    learner = learner_on(photos, "test_resnet", task="multi_label")
    learner.export(tmp_path / "model")
    expected = learner.predictor().probabilities(files).numpy()
    found = in_transformers(tmp_path / "model", files, ("blue", "green", "red"))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("resize", ["crop", "squish"])
@pytest.mark.parametrize("size", [64, 160, 224, 299])
def test_timms_own_transform_prepares_a_square_image_to_the_bit(
    tiny_description: ModelDescription, tmp_path: Path, resize: Resize, size: int
) -> None:
    for crop_fraction in (0.875, 0.9, 1.0):
        preprocessing = Preprocessing(size, resize, crop_fraction)
        description = replace(tiny_description, preprocessing=preprocessing)
        config = timm_config.config_of(description, "fc")["pretrained_cfg"]
        transform = timm.data.create_transform(
            **timm.data.resolve_data_config({}, pretrained_cfg=config)
        )
        pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        ours = preprocessing.inputs([image], torch.device("cpu"))[0]
        assert ours.shape == (3, size, size)
        torch.testing.assert_close(transform(image), ours, rtol=0, atol=1e-6)


def test_it_has_the_names_and_the_model_of_any_size(tmp_path: Path, photos: Path) -> None:
    learner = learner_on(photos, "test_vit")
    learner.export(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["label_names"] == ["blue", "green", "red"]
    assert config["architecture"] == "test_vit"
    assert config["model_args"] == {"img_size": SIZE}


def test_an_mlp_head_has_none(photos: Path, tmp_path: Path) -> None:
    learner_on(photos, "test_resnet", head="mlp").export(tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()


def test_an_export_replaces_the_file_of_another_one(photos: Path, tmp_path: Path) -> None:
    learner_on(photos, "test_resnet").export(tmp_path / "model")
    learner_on(photos, "test_resnet", head="mlp").export(tmp_path / "model", overwrite=True)
    assert not (tmp_path / "model" / "config.json").exists()


def test_equal_weights_are_equal_files(photos: Path, tmp_path: Path) -> None:
    learner = learner_on(photos, "test_resnet")
    learner.adjust_priors("uniform")
    files = []
    for number in range(8):  # unsorted, the texts of its header would be in two orders
        learner.export(tmp_path / str(number))
        files.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(set(files)) == 1
