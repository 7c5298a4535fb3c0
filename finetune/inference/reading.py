"""Reading data for a diagnosis: every example once, in order, with its name and image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.data.batching import ImageLoader
from finetune.data.images.decode import read_image
from finetune.data.loaders import Batches, DataLoaders, EpochLoader, IndexedLoader
from finetune.data.picture_loaders import ImageLoaders
from finetune.data.unlabelled import UnlabelledLoader
from finetune.inference import torch_loaders

_SIDE = 320  # pixels of an image that is shown


@dataclass(frozen=True, slots=True)
class InOrder:
    """All examples of an indexed loader by their number, whole batches in every process.

    A training loader would shuffle them and leave out the last ones.
    """

    loader: IndexedLoader
    batch_size: int

    def _parts(self) -> list[Tensor]:
        return list(torch.split(torch.arange(len(self.loader.targets)), self.batch_size))

    def __len__(self) -> int:
        return len(self._parts())

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        return self.loader.fetch(self._parts()[start:])


@dataclass(frozen=True, slots=True)
class Source:
    """What is read, and what is known of its examples.

    sources: images or paths, by row. numbers: where each row is in what the caller gave, such as
    a data set that was split; None: they are counted as they come.
    """

    loader: EpochLoader
    sources: Sequence[Any] | None = None
    numbers: Tensor | None = None

    def items(self, count: int) -> list[str | int]:
        """The path of each example, or else its number."""
        numbers = list(range(count)) if self.numbers is None else self.numbers.tolist()
        if not isinstance(self.sources, list | tuple):
            return numbers
        pairs = zip(self.sources, numbers, strict=True)
        return [str(s) if isinstance(s, str | Path) else number for s, number in pairs]

    @property
    def image(self) -> Callable[[int], Any] | None:
        return None if self.sources is None else self._open

    def _open(self, number: int) -> Any:
        assert self.sources is not None
        image = read_image(self.sources[number], min_side=_SIDE)
        image.thumbnail((_SIDE, _SIDE))
        return image


def source_of(data: DataLoaders, loader: Any, *, labelled: bool = True) -> Source:
    """loader: None for validation; else an EpochLoader, or a torch DataLoader with targets.

    labelled: whether its labels are asked for. Raises ValueError where they are and there are none,
    or ones that mean other classes, and where there is no validation data.
    """
    if loader is None:
        if data.valid is None:
            raise ValueError(
                "there is no validation data; pass a loader, or DataLoaders(train, valid)"
            )
        loader = data.valid
    if labelled and isinstance(loader, UnlabelledLoader):
        raise ValueError(
            "this loader has no labels to compare with; learner.predict_folder(files) gives the "
            "predictions of unlabelled images"
        )
    own = DataLoaders(loader).train  # an EpochLoader, whatever it was
    if isinstance(data, ImageLoaders) and isinstance(own, ImageLoader):
        own = data.adopted(own)  # another's may have another size, or other classes
    if isinstance(own, IndexedLoader):
        sizes = [len(part) for part in own.order(data.seed, 0)]
        numbers = own.cache.examples.numbers if isinstance(own, ImageLoader) else None
        sources = getattr(own, "items", None)
        return Source(InOrder(own, max(sizes, default=1)), sources, numbers)
    given = torch_loaders.unwrapped(loader)
    if labelled:
        torch_loaders.check_classes(data, given)
    torch_loaders.warn_of_disorder(given)
    return Source(own, torch_loaders.paths_of(given))
