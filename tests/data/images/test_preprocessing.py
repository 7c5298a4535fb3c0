from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.data.images.opening import ImageError
from finetune.data.images.preprocessing import Preprocessing

CPU = torch.device("cpu")
HALVES = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)}


def test_presized_side_leaves_the_crop_fraction() -> None:
    assert Preprocessing(224).presized_size == 256
    assert Preprocessing(224, crop_fraction=1).presized_size == 224


@given(size=st.integers(1, 1000), fraction=st.floats(0.1, 1))
def test_presized_side_has_even_margins_and_about_the_fraction(size: int, fraction: float) -> None:
    side = Preprocessing(size, crop_fraction=fraction).presized_size
    assert isinstance(side, int)
    assert side >= size
    assert (side - size) % 2 == 0
    assert abs(side - size / fraction) <= 1


def test_presized_rectangle_has_the_margins_of_each_side() -> None:
    assert Preprocessing((112, 224)).presized_size == (128, 256)
    assert Preprocessing((224, 224)) == Preprocessing(224)


def test_inputs_of_a_rectangle_are_its_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (18, 36, 3), dtype=np.uint8)
    preprocessing = Preprocessing((16, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    inputs = preprocessing.inputs([image], CPU)[0].permute(1, 2, 0).numpy()
    assert np.abs(inputs * 255 - image[1:-1, 2:-2]).max() < 1e-4


@pytest.mark.parametrize("size", [0, (16, 0), (1, 2, 3), (16,), 16.0, "16", (16.0, 32), True])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises((TypeError, ValueError), match="image_size"):
        Preprocessing(size)  # type: ignore[arg-type]


def test_inputs_have_one_row_for_each_image() -> None:
    images = [np.zeros((20, 30, 3), np.uint8), torch.zeros(3, 9, 9, dtype=torch.uint8)]
    inputs = Preprocessing(16).inputs(images, CPU)
    assert (inputs.shape, inputs.dtype) == ((2, 3, 16, 16), torch.float32)


def test_inputs_are_normalised_by_channel() -> None:
    inputs = Preprocessing(16, **HALVES).inputs([Image.new("RGB", (20, 20), (255, 0, 51))], CPU)
    assert torch.allclose(inputs.mean(dim=(0, 2, 3)), torch.tensor([1, -1, 0.2]))


def test_inputs_are_the_middle_of_the_presized_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    preprocessing = Preprocessing(16, mean=(0.0,) * 3, std=(1.0,) * 3)
    middle = preprocessing.presize(image)[1:-1, 1:-1]
    inputs = preprocessing.inputs([image], CPU)[0].permute(1, 2, 0).numpy()
    assert np.abs(inputs * 255 - middle).max() < 1e-4


def test_inputs_of_an_image_do_not_depend_on_the_others() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8))
    preprocessing = Preprocessing(16)
    alone = [preprocessing.inputs([image], CPU) for image in images]
    assert torch.equal(preprocessing.inputs(images, CPU), torch.cat(alone))


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        Preprocessing(16).inputs([tmp_path / "gone.jpg"], CPU)


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_dictionary_and_back(resize: str) -> None:
    import json

    there = Preprocessing(99, resize, 0.9, **HALVES)
    assert Preprocessing.from_dict(json.loads(json.dumps(there.to_dict()))) == there


def test_dictionary_says_what_follows_from_it_in_words() -> None:
    described = Preprocessing(16, "pad", 0.5).to_dict()
    assert described["presized_side"] == 32
    assert "the longer side becomes 32, the rest black" in described["steps"][2]
    assert "stay at least 64" in described["steps"][0]


def test_unknown_keys_of_a_dictionary_are_refused() -> None:
    with pytest.raises(TypeError, match="crop_friction"):
        Preprocessing.from_dict({**Preprocessing(16).to_dict(), "crop_friction": 0.9})


@pytest.mark.parametrize("size", [0, -1])
def test_bad_image_size_is_refused(size: int) -> None:
    with pytest.raises(
        ValueError, match=f"image_size must be a whole number of at least 1, got {size}"
    ):
        Preprocessing(size)


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(ValueError, match=r"resize must be one of 'crop', 'squish', 'pad', got"):
        Preprocessing(16, "stretch")  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0, 0.05, 1.01, float("nan")])
def test_bad_crop_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"crop_fraction must be .* at most 1, got"):
        Preprocessing(16, crop_fraction=fraction)
