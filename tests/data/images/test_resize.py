import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.data.images.resize import RESIZE_METHODS, presize, presize_whole

RED, BLUE = (255, 0, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("method", RESIZE_METHODS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (32, 32), (5, 90), (1, 1)])
def test_presize_gives_a_square(method: str, size: tuple[int, int]) -> None:
    square = presize(flat(size=size), 32, method)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8


@pytest.mark.parametrize("method", RESIZE_METHODS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (32, 32), (5, 90), (1, 1)])
def test_presize_gives_a_rectangle(method: str, size: tuple[int, int]) -> None:
    assert presize(flat(size=size), (24, 40), method).shape == (24, 40, 3)


def stripes() -> Image.Image:
    """Blue, red, blue from left to right, the red middle half as wide."""
    image = flat(colour=BLUE, size=(80, 40))
    image.paste(RED, (20, 0, 60, 40))
    return image


def test_crop_keeps_the_middle() -> None:
    assert np.array_equal(presize(stripes(), 40, "crop"), np.asarray(flat(size=(40, 40))))


def test_squish_keeps_everything() -> None:
    square = presize(stripes(), 40, "squish")
    assert square[20, 2].tolist() == square[20, 37].tolist() == list(BLUE)
    assert square[0, 20].tolist() == list(RED)


def test_crop_to_a_rectangle_keeps_what_fits_its_shape() -> None:
    whole = presize(stripes(), (40, 80), "crop")
    assert np.array_equal(whole, np.asarray(stripes()))
    upright = presize(stripes(), (40, 20), "crop")
    assert np.array_equal(upright, np.asarray(flat(size=(20, 40))))


def test_pad_to_a_rectangle_surrounds_what_has_another_shape() -> None:
    assert np.array_equal(presize(stripes(), (40, 80), "pad"), np.asarray(stripes()))
    beside = presize(flat(size=(20, 40)), (40, 80), "pad")
    assert not beside[:, :30].any()
    assert not beside[:, 50:].any()
    assert beside[:, 30:50].any(axis=2).all()


def test_pad_surrounds_with_black() -> None:
    square = presize(stripes(), 40, "pad")
    assert square[20, 2].tolist() == list(BLUE)
    assert not square[:10].any()
    assert not square[30:].any()
    assert square[10:30].any(axis=2).all()


def test_presize_leaves_a_square_of_that_side_unchanged() -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for method in RESIZE_METHODS:
        assert np.array_equal(presize(Image.fromarray(array), 32, method), array)


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (5000, 1)])
def test_pad_keeps_something_of_a_thin_image(size: tuple[int, int]) -> None:
    assert presize(flat(size=size), 32, "pad").any()


def noisy(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((40, 40), (20, 20)),
        ((53, 40), (20, 26)),  # 4:3
        ((40, 53), (26, 20)),
        ((90, 40), (20, 30)),  # longer than what is kept
        ((3000, 20), (20, 30)),
        ((9, 7), (20, 24)),  # enlarged
        ((41, 40), (20, 20)),  # less than a pixel more at either end
    ],
)
def test_whole_image_keeps_as_much_of_both_ends(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    whole = presize_whole(noisy(*size), 20, margin=5)
    assert whole.shape == (*shape, 3)
    top, left = (shape[0] - 20) // 2, (shape[1] - 20) // 2
    middle = whole[top : top + 20, left : left + 20]
    assert np.array_equal(middle, presize(noisy(*size), 20, "crop"))


def test_ends_of_a_whole_image_continue_its_middle() -> None:
    """As if all had been resized at once, but for rounding."""
    at_once = noisy(300, 200).resize((146, 98), Image.Resampling.BILINEAR, (1, 0, 299, 200))
    whole = presize_whole(noisy(300, 200), 98, margin=24)
    assert np.abs(whole - np.asarray(at_once, dtype=np.float64)).max() <= 4


@settings(max_examples=60, deadline=None)
@example(width=25, height=25, side=11, margin=2)  # 25 / (25 / 11) is less than 11
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    side=st.integers(1, 60),
    margin=st.integers(0, 30),
)
def test_whole_images_of_any_size_fit_their_row(
    width: int, height: int, side: int, margin: int
) -> None:
    whole = presize_whole(flat(size=(width, height)), side, margin)
    assert min(whole.shape[:2]) == side
    assert max(whole.shape[:2]) <= side + 2 * margin
    assert (max(whole.shape[:2]) - side) % 2 == 0
