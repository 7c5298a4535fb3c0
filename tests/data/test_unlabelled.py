from pathlib import Path

import numpy as np
import pytest
import torch
from support import write_photos

from finetune import ImageDataLoaders, Learner

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def data(folder: Path) -> ImageDataLoaders:
    loaders = ImageDataLoaders.from_folder(folder, image_size=16, batch_size=4)
    return loaders.for_backbone(16, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_folder_of_any_depth_is_read_in_order(data: ImageDataLoaders, folder: Path) -> None:
    loader = data.test_loader(folder)
    assert list(map(str, loader.items)) == sorted(map(str, folder.rglob("*.jpg")))
    assert [len(batch) for batch in loader] == [8, 8, 8]
    assert [len(batch) for batch in data.test_loader(folder, batch_size=10)] == [10, 10, 4]


def test_inputs_are_those_of_prediction(data: ImageDataLoaders, folder: Path) -> None:
    items = [*sorted(folder.rglob("*.jpg"))[:5], np.full((30, 20, 3), 7, np.uint8)]
    found = torch.cat([batch.inputs for batch in data.test_loader(items)])
    assert torch.equal(found, data.inputs(items, CPU))


def test_learner_takes_it_as_a_loader(trained: Learner, photos: Path) -> None:
    assert isinstance(trained.data, ImageDataLoaders)
    loader = trained.data.test_loader(photos)
    expected = trained.predictor().probabilities(list(loader.items))
    with torch.no_grad():
        outputs = torch.cat([trained.model(batch.inputs) for batch in loader])
    assert torch.allclose(outputs.softmax(1), expected, atol=1e-6)
    prepared = [trained.data.prepare(batch, None).inputs for batch in loader.epoch(0, 0)]
    assert torch.equal(torch.cat(prepared), torch.cat([batch.inputs for batch in loader]))


def test_no_label_is_made_up(data: ImageDataLoaders, folder: Path) -> None:
    assert {int(t) for batch in data.test_loader(folder) for t in batch.targets} == {-1}


def test_nothing_to_predict_is_refused(data: ImageDataLoaders, tmp_path: Path) -> None:
    for nothing in ([], tmp_path):
        with pytest.raises(ValueError, match=r"there (are no images to predict|is no image in)"):
            data.test_loader(nothing)
    with pytest.raises(FileNotFoundError, match=r"image folder '.*gone' does not exist"):
        data.test_loader(tmp_path / "gone")
