"""Torch DataLoaders of data sets that know their files and classes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from finetune import DataLoaders, Learner


def folder_of(path: Path, **options: Any) -> ImageFolder:
    return ImageFolder(path, lambda image: pil_to_tensor(image).float() / 255, **options)


@pytest.fixture
def folder(photos: Path) -> ImageFolder:
    return folder_of(photos)


def learner_of(folder: ImageFolder, classes: list[str] | None) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 48, 4), nn.Linear(4, 3))
    loaders = DataLoader(folder, 8, shuffle=True), DataLoader(folder, 8)
    return Learner(
        DataLoaders(*loaders, classes=classes), model, loss=nn.functional.cross_entropy,
        split=[2], device="cpu", progress=False,
    )  # fmt: skip


@pytest.fixture
def learner(folder: ImageFolder) -> Learner:
    return learner_of(folder, folder.classes)


@pytest.fixture
def other(photos: Path, tmp_path: Path) -> Path:
    """Without blue, so that green is class 0."""
    for name in ("green", "red"):
        shutil.copytree(photos / name, tmp_path / name)
    return tmp_path


def test_rows_are_named_by_the_files_of_the_data_set(learner: Learner, folder: ImageFolder) -> None:
    paths = [path for path, _ in folder.samples]
    assert list(learner.predictions().items) == paths
    part = learner.predictions(DataLoader(Subset(folder, [7, 20, 3]), 2))
    assert list(part.items) == [paths[7], paths[20], paths[3]]
    assert len(learner.show_results(4).axes) >= 4


@pytest.mark.parametrize(
    "options",
    [
        {"collate_fn": lambda rows: default_collate(rows[:5])},
        {"batch_sampler": [[0, 1], [2]]},
    ],
)
def test_rows_that_may_be_others_are_numbered(
    learner: Learner, folder: ImageFolder, options: dict
) -> None:
    given = {"batch_size": 8, **options} if "collate_fn" in options else options
    found = learner.predictions(DataLoader(folder, **given))
    assert found.items == tuple(range(len(found)))


def test_shuffled_rows_are_numbered(learner: Learner, folder: ImageFolder) -> None:
    with pytest.warns(UserWarning, match="changes the order"):
        found = learner.predictions(DataLoader(folder, 8, shuffle=True))
    assert found.items == tuple(range(24))


@pytest.mark.parametrize("named", [True, False])
def test_labels_that_count_in_other_classes_are_refused(
    folder: ImageFolder, other: Path, named: bool
) -> None:
    learner = learner_of(folder, folder.classes if named else None)
    message = "by the classes green, red; those of the learner are blue, green, red"
    with pytest.raises(ValueError, match=message):
        learner.predictions(DataLoader(folder_of(other), 8))


def test_a_function_of_the_targets_makes_them_the_learners(learner: Learner, other: Path) -> None:
    loader = DataLoader(folder_of(other, target_transform=lambda number: number + 1), 8)
    found = learner.predictions(loader)
    assert {row.target for row in found if "red" in row.item} == {"red"}


def test_names_of_ones_own_for_the_same_classes_are_taken(folder: ImageFolder) -> None:
    learner = learner_of(folder, ["Blau", "Gruen", "Rot"])
    assert learner.predictions(DataLoader(folder, 4))[0].target == "Blau"


def test_features_may_be_of_any_classes(trained: Learner, photos: Path, other: Path) -> None:
    cpu = torch.device("cpu")
    folder = ImageFolder(other, lambda image: trained.data.inputs([image], cpu)[0])
    assert len(trained.features(DataLoader(folder, 8))) == 16
