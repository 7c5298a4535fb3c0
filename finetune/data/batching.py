"""ImageLoader: batches of presized images and their targets, a pure function of (seed, epoch)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import torch
from torch import Tensor
from typing_extensions import Self

from finetune import distributed
from finetune.data.examples import Examples
from finetune.data.images.cache import ImageCache
from finetune.data.images.opening import ImageSource
from finetune.data.loaders import Batch, Batches
from finetune.data.sampling import Sampling, draw
from finetune.nested import map_tensors
from finetune.randomness import generator


class ImageLoader:
    """Batches of presized images; while a GPU works on one, the next is made.

    examples: images with targets. cache: of the same images. In a distributed run every process
    takes its share of each batch, so that `batch_size` is the size over all processes. Training
    (shuffle=True) drops the last, short batch; validation keeps it. sampling: how often the classes
    come in an epoch of training, see `sampling.draw`.
    """

    def __init__(
        self,
        examples: Examples,
        cache: ImageCache,
        batch_size: int,
        *,
        shuffle: bool,
        sampling: Sampling | None = None,
    ) -> None:
        self.examples, self.cache = examples, cache
        self.batch_size, self.shuffle = batch_size, shuffle
        self.sampling = sampling
        count = len(examples)
        if not count:
            if shuffle:
                raise ValueError("there are no training images")
            raise ValueError(
                "there are no validation images; a random split holds out none of a class that has "
                "one image only: label several alike, or pass task='regression' for numbers"
            )
        if shuffle and count < batch_size:
            raise ValueError(
                f"{count} training images make no batch of {batch_size}; "
                f"pass batch_size={count} or less"
            )

    def of_squares(self) -> "Self":
        """A loader of the same images that gives the middle square of each, as validation does."""
        loader = copy.copy(self)
        loader.cache = self.cache.squares()
        return loader

    @property
    def items(self) -> Sequence[ImageSource]:
        """The images or their paths, by the example's number."""
        return self.examples.items

    @property
    def targets(self) -> Tensor:
        """[N, ...], by the example's number."""
        return self.examples.labels

    def __len__(self) -> int:
        """Batches per epoch."""
        count = len(self.examples)
        if self.shuffle:
            return count // self.batch_size
        return -(-count // self.batch_size)  # rounded up

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        """The batches of one epoch, from number `start` on."""
        return self.fetch(self.order(seed, epoch)[start:])

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        """The numbers of the examples in each batch of an epoch; this process's share of them."""
        order = torch.arange(len(self.examples))
        if self.sampling is not None:
            order = draw(self.targets, self.sampling, seed, epoch)
        elif self.shuffle:
            shuffler = generator(seed, "shuffle", epoch)
            order = torch.randperm(len(self.examples), generator=shuffler)
        rank, world_size = distributed.rank(), distributed.world_size()
        batches = torch.split(order, self.batch_size)[: len(self)]
        return [batch[rank::world_size] for batch in batches]

    def fetch(self, order: Sequence[Tensor]) -> Batches:
        """The examples with these numbers, batch by batch."""
        if not _models_run_on_a_gpu():
            # a model on the same cores would wait for the decoding threads in each of its layers
            yield from map(self._batch, order)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            upcoming: Future[Batch] | None = None
            for number, indices in enumerate(order):
                batch = self._batch(indices) if upcoming is None else upcoming.result()
                upcoming = None
                if number + 1 < len(order):
                    upcoming = ahead.submit(self._batch, order[number + 1])
                yield batch

    def _batch(self, indices: Tensor) -> Batch:
        images, targets = self.cache.images(indices), self.targets[indices]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # only from pinned memory is a copy to the device asynchronous
            images, targets = map_tensors(torch.Tensor.pin_memory, (images, targets))
        return Batch(images, targets, indices)


def _models_run_on_a_gpu() -> bool:
    return torch.cuda.is_initialized() or torch.backends.mps.is_available()  # type: ignore[no-untyped-call]


class UnlabelledLoader(ImageLoader):
    """Images in their order, without labels: the targets of its batches mean nothing.

    Going through it gives batches ready for the model; `epoch`, as of every loader of images, gives
    what `prepare` makes ready, on any device.
    """

    def __init__(
        self,
        examples: Examples,
        cache: ImageCache,
        batch_size: int,
        prepare: Callable[[Batch, int | None], Batch],
    ) -> None:
        super().__init__(examples, cache, batch_size, shuffle=False)
        self._prepare = prepare

    def __iter__(self) -> Iterator[Batch]:
        with closing(self.epoch(0, 0)) as batches:
            for batch in batches:
                yield self._prepare(batch, None)
