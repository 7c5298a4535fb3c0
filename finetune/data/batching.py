"""ImageLoader: batches of presized images as a pure function of (seed, epoch)."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from finetune import distributed
from finetune.data.images.cache import ImageCache
from finetune.data.images.decode import ImageSource
from finetune.data.loaders import Batch, Batches
from finetune.randomness import generator


class ImageLoader:
    """Batches of presized images; while a GPU works on one, the next is made.

    In a distributed run every process takes its share of each batch, so that `batch_size` is the
    size over all processes. Training drops the last, short batch; validation keeps it.
    """

    def __init__(self, cache: ImageCache, batch_size: int, *, shuffle: bool) -> None:
        self.cache, self.batch_size, self.shuffle = cache, batch_size, shuffle
        count = len(cache.examples)
        if not count:
            raise ValueError(f"there are no {'training' if shuffle else 'validation'} images")
        if shuffle and count < batch_size:
            raise ValueError(
                f"{count} training images make no batch of {batch_size}; "
                f"pass batch_size={count} or less"
            )

    @property
    def items(self) -> Sequence[ImageSource]:
        """The images or their paths, by the example's number."""
        return self.cache.examples.items

    @property
    def targets(self) -> Tensor:
        return self.cache.examples.labels

    def __len__(self) -> int:
        count = len(self.cache.examples)
        return count // self.batch_size if self.shuffle else -(-count // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        return self.fetch(self.order(seed, epoch)[start:])

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        count = len(self.cache.examples)
        order = torch.arange(count)
        if self.shuffle:
            order = torch.randperm(count, generator=generator(seed, "shuffle", epoch))
        rank, world = distributed.rank(), distributed.world_size()
        if self.shuffle and self.batch_size % world:
            raise ValueError(
                f"batch_size={self.batch_size} is over all processes and does not divide by {world}"
            )
        return [b[rank::world] for b in torch.split(order, self.batch_size)[: len(self)]]

    def fetch(self, order: Sequence[Tensor]) -> Batches:
        if not _has_gpu():
            # a model on the same cores would wait for the decoding threads in each of its layers
            yield from map(self._batch, order)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            upcoming: Future[Batch] | None = None
            for number, indices in enumerate(order):
                batch = upcoming.result() if upcoming else self._batch(indices)
                following = number + 1 < len(order)
                upcoming = ahead.submit(self._batch, order[number + 1]) if following else None
                yield batch

    def _batch(self, indices: Tensor) -> Batch:
        images, labels = self.cache.images(indices), self.cache.examples.labels[indices]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(images, labels, indices)


def _has_gpu() -> bool:
    """Whether models run on one in this process."""
    return torch.cuda.is_initialized() or torch.backends.mps.is_available()  # type: ignore[no-untyped-call]
