import numpy as np
import pytest
import torch

from finetune.data.images.rows import ImageRows
from finetune.data.images.whole import WholeImages

SIZES = [(8, 8), (12, 8), (8, 10)]
"""A square, a tall and a wide one."""


def positions(height: int, width: int) -> np.ndarray:
    """An image whose pixels say where they are: (row, column, 0)."""
    row, column = np.mgrid[:height, :width]
    return np.stack([row, column, np.zeros_like(row)], axis=2).astype(np.uint8)


def whole_images(sizes: list[tuple[int, int]] = SIZES) -> WholeImages:
    rows = ImageRows.to_be_filled(np.full((len(sizes), 12, 8, 3), 77, np.uint8), 2)
    for number, size in enumerate(sizes):
        rows.put(number, positions(*size), size)
    return WholeImages.of(rows.select(np.arange(len(sizes))))


@pytest.mark.parametrize(
    ("place", "tall_start", "wide_start"), [(0.0, 0, 0), (0.5, 2, 1), (0.999, 4, 2)]
)
def test_square_is_at_its_place_along_the_image(
    place: float, tall_start: int, wide_start: int
) -> None:
    images = whole_images()
    square, tall, wide = images.squares(torch.full((3,), place)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(square, positions(8, 8))
    assert np.array_equal(tall, positions(12, 8)[tall_start : tall_start + 8])
    # as it lies in its row
    assert np.array_equal(wide.swapaxes(0, 1), positions(8, 10)[:, wide_start : wide_start + 8])


def test_places_reach_from_one_end_to_the_other_and_no_further() -> None:
    places = torch.arange(1000) / 1000
    images = whole_images([(12, 8)] * 1000)
    first_rows = images.squares(places)[:, 0, 0, 0]
    assert first_rows.unique().tolist() == [0, 1, 2, 3, 4]


def test_middle_squares_are_upright() -> None:
    square, tall, wide = whole_images().middle_squares().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(square, positions(8, 8))
    assert np.array_equal(tall, positions(12, 8)[2:10])
    assert np.array_equal(wide, positions(8, 10)[:, 1:9])


def test_squares_alone_are_not_copied() -> None:
    images = whole_images([(8, 8), (8, 8)])
    for squares in (images.squares(torch.zeros(2)), images.middle_squares()):
        assert squares.data_ptr() == images.pixels.data_ptr()


def test_squares_are_in_channels_last_layout() -> None:
    squares = whole_images().squares(torch.rand(3))
    assert squares.is_contiguous(memory_format=torch.channels_last)
