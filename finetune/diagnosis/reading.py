"""Reading data for a diagnosis: every example once, in order, with its name and picture."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from finetune.data.decode import read_image
from finetune.data.image_loader import ImageLoader
from finetune.data.loaders import Batches, DataLoaders, EpochLoader, IndexedLoader, TorchLoader
from finetune.data.picture_loaders import PictureLoaders

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_SIDE = 320  # pixels of a picture that is shown


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
    """What is read, and what is known of its examples. sources: pictures or paths, by number."""

    loader: EpochLoader
    sources: Sequence[Any] | None

    def items(self, count: int) -> list[str | int]:
        """The path of each example, or else its number."""
        if self.sources is None or not isinstance(self.sources, list | tuple):
            return list(range(count))
        found = enumerate(self.sources)
        return [str(s) if isinstance(s, str | Path) else i for i, s in found]

    @property
    def picture(self) -> Callable[[int], Any] | None:
        return None if self.sources is None else self._open

    def _open(self, number: int) -> Any:
        assert self.sources is not None
        image = read_image(self.sources[number], min_side=_SIDE)
        image.thumbnail((_SIDE, _SIDE))
        return image


def source_of(data: DataLoaders, loader: Any) -> Source:
    """loader: None for validation; else an EpochLoader, or a torch DataLoader with targets.

    Raises ValueError where there is no validation data.
    """
    if loader is None:
        if data.valid is None:
            raise ValueError(
                "there is no validation data; pass a loader, or DataLoaders(train, valid)"
            )
        loader = data.valid
    own = DataLoaders(loader).train  # an EpochLoader, whatever it was
    if isinstance(data, PictureLoaders) and isinstance(own, ImageLoader):
        own = data.adopted(own)  # another's may have another size, or other classes
    if isinstance(own, IndexedLoader):
        sizes = [len(part) for part in own.order(data.seed, 0)]
        return Source(InOrder(own, max(sizes, default=1)), getattr(own, "items", None))
    _warn_of_disorder(loader)
    return Source(own, None)


def _warn_of_disorder(loader: Any) -> None:
    """Rows are numbered as they come, which for a shuffled data set says nothing."""
    loader = loader.loader if isinstance(loader, TorchLoader) else loader
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader if batches is None else batches, "sampler", None)
    found = []
    if isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) is True:
        found.append(
            f"its {type(sampler).__name__} changes the order, so that the rows' numbers "
            "are not those of the data set"
        )
    if getattr(batches, "drop_last", False) is True:
        found.append("drop_last=True leaves out the last, short batch")
    if found:
        warnings.warn(
            f"this {type(loader).__name__} is not read whole and in order: {'; '.join(found)}; "
            "pass DataLoader(dataset, batch_size), without shuffle= or drop_last=",
            stacklevel=5,
        )
