"""The depth of a data set: how many bits of wider integers are used, by some of its images."""

from collections.abc import Iterator, Sequence

import numpy as np

from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.decode import wide_values
from finetune.data.images.opening import ImageError, ImageSource
from finetune.data.images.packed import PackedImage
from finetune.data.images.value_range import Depth, guessed_depth

_IMAGES_SAMPLED, _ITEMS_SAMPLED = 32, 8
"""So many training images are looked at for the values that they have. Items of a data set are
fewer, since each is decoded, whatever its depth."""


def sampled_depth(items: Sequence[ImageSource], channels: int) -> Depth | None:
    """The depth that some of the images show, see `guessed_depth`; None where none has more bits.

    channels: that will be read of each.
    """
    return guessed_depth(_wide_sample(items, channels))


def _wide_sample(items: Sequence[ImageSource], channels: int) -> Iterator[np.ndarray]:
    """The values of those with more than 8 bits among some images at equal distances.

    Where images are read together, only those that are read with the first one are looked at.
    """
    count = _ITEMS_SAMPLED if isinstance(items, DatasetImages) else _IMAGES_SAMPLED
    last = _count_read_with_first(items)
    step = max(1, -(-last // count))  # rounded up
    for number in range(0, last, step):
        try:
            values = wide_values(items[number], channels)
        except ImageError:  # an item of a data set that can't be read, which is said later
            continue
        if values is not None:
            yield values


def _count_read_with_first(items: Sequence[ImageSource]) -> int:
    """How many of the first images are read together; all of them where each is read by itself."""
    if isinstance(items, DatasetImages) or not isinstance(items[0], PackedImage):
        return len(items)
    part = items[0].read_with
    if part is None:
        return len(items)
    count = 1
    while count < len(items):
        item = items[count]
        if not isinstance(item, PackedImage) or item.read_with != part:
            break
        count += 1
    return count
