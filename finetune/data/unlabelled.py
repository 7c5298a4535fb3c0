"""Images without labels, in batches that are preprocessed as those for validation are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from finetune.data.batching import ImageLoader
from finetune.data.examples import Examples, image_files, in_order
from finetune.data.images.cache import ImageCache
from finetune.data.images.decode import ImageSource
from finetune.data.loaders import Batch
from finetune.tasks.task import Task

UNKNOWN = -1
"""Stands for the class of an image that has no label."""


class UnlabelledLoader(ImageLoader):
    """`items` in their order. Its targets mean nothing: there are no labels.

    Going through it gives batches ready for the model; `epoch`, as of every loader of images,
    gives what `DataLoaders.prepare` makes ready, on any device.
    """

    def __init__(
        self,
        cache: ImageCache,
        batch_size: int,
        prepare: Callable[[Batch, int | None], Batch],
    ) -> None:
        super().__init__(cache, batch_size, shuffle=False)
        self._prepare = prepare

    @property
    def items(self) -> Sequence[ImageSource]:
        return self.cache.examples.items

    def __iter__(self) -> Iterator[Batch]:
        with closing(self.epoch(0, 0)) as batches:
            for batch in batches:
                yield self._prepare(batch, None)


def unlabelled(
    items: str | Path | Sequence[ImageSource], classes: tuple[str, ...], task: Task
) -> Examples:
    """Examples without labels: of the images in and below a folder, or of a sequence of them."""
    if isinstance(items, str | Path):
        items = image_files(items)
    if not len(items):
        raise ValueError("there are no images to predict")
    items = in_order(items)
    if task == "single_label":
        return Examples(items, torch.full((len(items),), UNKNOWN), classes)
    return Examples(items, torch.full((len(items), len(classes)), torch.nan), classes, task)
