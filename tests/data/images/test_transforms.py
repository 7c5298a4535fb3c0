import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import write_photos
from torch import Tensor
from torchvision.transforms import v2

from finetune import ImageDataLoaders
from finetune.data.images.augment import LIGHT, STANDARD, STRONG, Augmentation, resolve
from finetune.data.images.transforms import transformed


def noise(count: int = 3, side: int = 18) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=source)


def views(
    transform: Any, *, numbers: list[int] | None = None, view: int = 0, **options: Any
) -> Any:
    numbers = [0, 1, 2] if numbers is None else numbers
    arguments: dict = {"seed": 0, "size": 18, **options}
    return transformed(
        noise()[numbers], transform, view=view, indices=torch.tensor(numbers), **arguments
    )


def from_every_generator(image: Tensor) -> Tensor:
    """Draws as users' code does, from all three."""
    shift = torch.rand(()) + random.random() + float(np.random.rand())
    return image.float() / 255 * shift / 3


# --- names


@pytest.mark.parametrize(
    ("name", "meant"),
    [("none", None), ("light", LIGHT), ("standard", STANDARD), ("strong", STRONG)],
)
def test_names_stand_for_augmentations(name: Any, meant: Augmentation | None) -> None:
    assert resolve(name) == meant


def test_default_is_standard(tmp_path: Path) -> None:
    data = ImageDataLoaders.from_folder(write_photos(tmp_path), batch_size=4)
    assert data.pipeline.augmentation == Augmentation()


def test_unknown_name_is_corrected() -> None:
    with pytest.raises(ValueError, match="'stong' is no augmentation; did you mean 'strong'"):
        resolve("stong")  # type: ignore[arg-type]


def test_what_is_no_augmentation_is_refused() -> None:
    with pytest.raises(TypeError, match="a function of an image, got 3"):
        resolve(3)  # type: ignore[arg-type]


# --- a function of the user's own


def test_identity_gives_the_presized_image_in_zero_to_one() -> None:
    assert torch.allclose(views(lambda image: image), noise().float() / 255)


def test_another_size_is_resized() -> None:
    assert views(lambda image: image[:, 2:9, 1:11], size=6).shape == (3, 3, 6, 6)


def test_result_is_normalised_for_the_backbone(tmp_path: Path) -> None:
    options: dict = {"image_size": 16, "batch_size": 4}
    folder = write_photos(tmp_path)
    plain = ImageDataLoaders.from_folder(folder, augment="none", **options)
    own = ImageDataLoaders.from_folder(folder, augment=v2.CenterCrop(16), **options)
    batch = next(plain.train.epoch(0, 0))
    assert torch.allclose(own.prepare(batch, 0).inputs, plain.prepare(batch, 0).inputs, atol=1e-6)


@pytest.mark.parametrize("transform", [from_every_generator, v2.RandAugment(), v2.RandomCrop(9)])
def test_view_is_a_function_of_seed_view_and_number(transform: Any) -> None:
    one = views(transform, view=4)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    assert torch.equal(views(transform, view=4), one)
    assert torch.equal(views(transform, view=4, numbers=[2]), one[2:])
    assert not torch.equal(views(transform, view=5), one)
    assert not torch.equal(views(transform, view=4, seed=1), one)


def test_generators_are_left_alone() -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    views(from_every_generator)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))


def test_working_in_place_changes_no_kept_image(tmp_path: Path) -> None:
    def paint(image: Tensor) -> Tensor:
        return image.zero_()

    data = ImageDataLoaders.from_folder(write_photos(tmp_path), batch_size=4, augment=paint)
    batch = next(data.train.epoch(0, 0))
    before = batch.inputs.clone()
    data.prepare(batch, 0)
    assert torch.equal(batch.inputs, before)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image.float(), r"numbers in \[0, 1\], got .* leave out Normalize"),
        (lambda image: image.double() / 0, r"numbers in \[0, 1\], got "),
        (lambda image: image[0], r"a tensor \[3, h, w\] of an image, got shape \[18, 18\]"),
        (v2.Grayscale(), r"augment=Grayscale must give a tensor .* got shape \[1, 18, 18\]"),
        (v2.ToPILImage(), "augment=ToPILImage must give a tensor .* got Image"),
        (lambda image: image.int(), r"uint8 or float images, got torch\.int32"),
    ],
)
def test_result_that_is_no_image_is_refused(transform: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        views(transform)
