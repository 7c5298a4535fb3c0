import numpy as np
import pytest

from finetune.data.images.rows import ImageRows


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = [image(8, 8), image(12, 8), image(8, 10)]
"""A square, a tall and a wide one."""


@pytest.fixture
def rows() -> ImageRows:
    rows = ImageRows.to_be_filled(np.full((3, 12, 8, 3), 77, np.uint8), 2)
    for number, pixels in enumerate(IMAGES):
        rows.put(number, pixels, pixels.shape[:2])
    return rows


def test_middle_squares_are_upright(rows: ImageRows) -> None:
    squares = rows.squares(np.array([2, 0, 1, 2]))
    wide, square, tall = IMAGES[2][:, 1:9], IMAGES[0], IMAGES[1][2:10]
    for pixels, expected in zip(squares, [wide, square, tall, wide], strict=True):
        assert np.array_equal(pixels, expected)


def test_part_holds_the_whole_image(rows: ImageRows) -> None:
    assert np.array_equal(rows.part(0), IMAGES[0])
    assert np.array_equal(rows.part(1), IMAGES[1])
    assert np.array_equal(rows.part(2), IMAGES[2].swapaxes(0, 1))


def test_selected_rows_are_as_long_as_their_longest_image(rows: ImageRows) -> None:
    lengths = []
    for numbers in ([0], [0, 2], [2, 1], []):
        selected = rows.select(np.array(numbers, np.int64))
        assert len(selected.pixels) == len(selected.sizes) == len(numbers)
        lengths.append(selected.pixels.shape[1])
        for position, number in enumerate(numbers):
            assert np.array_equal(selected.part(position), rows.part(number))
    assert lengths == [8, 10, 12, 8]


def test_image_that_follows_a_longer_one_is_all_that_counts(rows: ImageRows) -> None:
    shorter = image(10, 8, seed=1)
    rows.put(1, shorter, (10, 8))
    assert np.array_equal(rows.part(1), shorter)
    assert np.array_equal(rows.squares(np.array([1]))[0], shorter[1:9])


def test_middle_square_alone_lies_where_that_of_the_whole_image_does(rows: ImageRows) -> None:
    squares = ImageRows.to_be_filled(np.full((3, 12, 8, 3), 77, np.uint8), 2)
    middles = [IMAGES[0], IMAGES[1][2:10], IMAGES[2][:, 1:9]]
    for number, (middle, whole) in enumerate(zip(middles, IMAGES, strict=True)):
        squares.put(number, middle, whole.shape[:2])
    numbers = np.arange(3)
    assert np.array_equal(squares.squares(numbers), rows.squares(numbers))
    assert np.array_equal(squares.sizes, rows.sizes)
    assert (squares.part(1)[[0, 1, -2, -1]] == 77).all()
    assert (squares.part(2)[[0, -1]] == 77).all()
