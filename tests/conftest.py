"""Fixtures that several rooms need."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import write_photos

from finetune import ImageDataLoaders, Learner, vision_learner

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start, too
torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other


@pytest.fixture(scope="session", autouse=True)
def _short_collections() -> None:
    """A collection of garbage takes a second where it walks all that is imported; it need not."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _rounding_of_float32() -> Iterator[None]:
    """Tests compare to float32's rounding, also on CPUs that compute in bf16 unless told not to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 noisy images in three colours: blue/, green/, red/."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def trained(photos: Path) -> Learner:
    """A vision learner with a tiny random backbone, trained a little; do not change it."""
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    learner.fine_tune(2)
    return learner
