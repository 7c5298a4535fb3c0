"""Fingerprints tell runs apart, and not where or when they run."""

import io
from enum import Enum
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from finetune import ImageDataLoaders
from finetune.files import fingerprints
from finetune.files.names import beside


class Rows(Dataset):
    """As people write them: some attributes have an entry for each example, and some have not."""

    def __init__(self, root: str, labels: list[int], **more: object) -> None:
        self.files = [f"{root}/{number}.jpg" for number in range(len(labels))]
        self.labels = labels
        self.root = root
        self.cache: list = [None] * len(labels)
        self.__dict__.update(more)

    def __len__(self) -> int:
        return len(self.labels)


def of(dataset: object) -> fingerprints.Fingerprint:
    return fingerprints.of_examples("examples", dataset)


PAIRS = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Rows("a", [0, 1, 0]), Rows("a", [0, 1, 1])),
        (Rows("a", [0, 1]), Rows("a", [0, 1, 1])),
        (Rows("a", [0, 1], x=np.array([1.0, 2])), Rows("a", [0, 1], x=np.array([1.0, 3]))),
        (Rows("a", [0, 1], at=[("a", 0), ("b", 1)]), Rows("a", [0, 1], at=[("a", 0), ("b", 0)])),
        (PAIRS, TensorDataset(PAIRS.tensors[0] + 1, PAIRS.tensors[1])),
        (Subset(PAIRS, [0, 1, 2]), Subset(PAIRS, [0, 1, 3])),
        (Subset(Rows("a", [0, 1, 0]), [0, 1]), Subset(Rows("a", [1, 1, 0]), [0, 1])),
        (ConcatDataset([PAIRS, PAIRS]), ConcatDataset([PAIRS, Subset(PAIRS, [5, 4, 3, 2, 1, 0])])),
    ],
)
def test_other_examples_have_another_fingerprint(first: Dataset, second: Dataset) -> None:
    assert of(first) == of(first)
    assert of(first) != of(second)


@pytest.mark.parametrize(
    "second",
    [
        Rows("/elsewhere/b", [0, 1, 0]),
        Rows("a", [0, 1, 0], cache=[torch.ones(2)] * 3),
        Rows("a", [0, 1, 0], started_at=12345.6),
    ],
)
def test_where_they_are_and_what_is_cached_is_not_in_it(second: Dataset) -> None:
    assert of(Rows("a", [0, 1, 0])) == of(second)


def loss_with(weight: float) -> object:
    return lambda outputs, targets: weight * (outputs - targets).mean()


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.rand(1))
        self.register_buffer("scale", torch.tensor(scale))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 2])), nn.CrossEntropyLoss(torch.tensor([2.0, 1]))),
        (nn.CrossEntropyLoss(), nn.NLLLoss()),
        (nn.functional.mse_loss, nn.functional.l1_loss),
        (partial(nn.functional.cross_entropy, ignore_index=1), nn.functional.cross_entropy),
        (loss_with(1.0), loss_with(2.0)),
        (Scaled(1.0), Scaled(2.0)),
    ],
)
def test_another_loss_has_another_fingerprint(first: object, second: object) -> None:
    assert fingerprints.of_object("loss", first) != fingerprints.of_object("loss", second)


def test_what_a_loss_learns_is_not_in_it() -> None:
    first, second = Scaled(1.0), Scaled(1.0)
    assert fingerprints.of_object("loss", first) == fingerprints.of_object("loss", second)


def test_paths_are_relative_to_their_common_folder() -> None:
    here, moved = ["/a/x/1.jpg", "/a/y/1.jpg"], ["/b/c/x/1.jpg", "/b/c/y/1.jpg"]
    assert fingerprints.of_paths(here) == fingerprints.of_paths(moved)
    assert fingerprints.of_paths(here) != fingerprints.of_paths(here[::-1])
    assert fingerprints.of_paths(["/a/1.jpg"]) == fingerprints.of_paths(["/b/1.jpg"])


@pytest.mark.parametrize("tensor", [torch.arange(1000), torch.ones(300, dtype=torch.bfloat16)])
def test_a_large_tensor_is_known_by_its_content(tensor: torch.Tensor) -> None:
    other = tensor.clone()
    other[-1] = 7
    assert fingerprints.of_tensor(tensor) == fingerprints.of_tensor(tensor.clone())
    assert fingerprints.of_tensor(tensor) != fingerprints.of_tensor(other)


def test_the_rate_of_a_dropout_layer_is_seen() -> None:
    assert fingerprints.of_modules([nn.Dropout(0.1)]) != fingerprints.of_modules([nn.Dropout(0.2)])


def test_a_name_that_only_one_of_them_has_is_of_another_version() -> None:
    assert fingerprints.differences({"old": 1, "both": 2}, {"new": 1, "both": 2}) == []


def test_names_beside_a_file_fit_into_a_folder(tmp_path: Path) -> None:
    beside(tmp_path / ("n" * 250), "lock").write_text("")
    assert beside(tmp_path / "run", "lock").name == ".run.lock"


def test_values_are_of_types_that_a_file_can_hold() -> None:
    class Kind(str, Enum):
        FOCAL = "focal"

    loss = partial(nn.functional.mse_loss, gamma=np.float64(2), count=np.int64(3), kind=Kind.FOCAL)
    fingerprint = fingerprints.of_object("loss", loss)
    assert {name: type(value) for name, value in fingerprint.items()} == {
        "loss": str, "loss gamma": float, "loss count": int, "loss kind": str,
    }  # fmt: skip


def test_no_number_is_the_same_as_no_number() -> None:
    assert fingerprints.differences({"scale": nan}, {"scale": nan}) == []
    assert fingerprints.differences({"scale": nan}, {"scale": 1.0}) == ["scale was nan and is 1.0"]


class Endless(Dataset):
    def __len__(self) -> int:
        raise TypeError("it has no end")


class Around(Dataset):
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "inner", [Endless(), torch.eye(3).to_sparse(), torch.empty(3, device="meta")]
)
def test_what_can_not_be_read_is_left_out(inner: object) -> None:
    assert fingerprints.of_examples("examples", Around(inner))["number of examples"] == 3


def test_images_that_can_not_be_written_to_are_read_without_a_warning() -> None:
    file = io.BytesIO()
    images = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30)]
    images[0].save(file, "PNG")
    torch.set_warn_always(True)  # else PyTorch warns once a process, of the first one
    try:
        for items in (images, [file.getvalue()] * 3):
            data = ImageDataLoaders.from_lists(
                items, ["a", "b", "a"], is_valid=[False, False, True], batch_size=2
            )
            assert data.fingerprint() == data.fingerprint()
    finally:
        torch.set_warn_always(False)
