"""DatasetImages: the images of a data set, each read when it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import ConcatDataset

from finetune.data.images.opening import ImageError, ImageSource
from finetune.forks import ForkSafeLock


class ImageDataset(Protocol):
    """A data set of pairs (image, label), as torchvision's, or of rows, as Hugging Face's."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class DatasetImages(Sequence[ImageSource]):
    """The images of a data set as a sequence, each read when it is asked for.

    numbers: the data set's indices of the images. column: where an item of the data set has its
    image: 0 in (image, label), or the name of a column in a dict; None where an item is an image.
    names: what the data set's items are called, such as paths of files; None: by their numbers.
    """

    dataset: ImageDataset
    numbers: Sequence[int]
    column: int | str | None = 0
    names: Sequence[str | int] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return read_one(self.dataset, self.numbers[index], self.column)

    @property
    def identities(self) -> Sequence[str | int]:
        """What the images are called, which does not change when others are added behind them."""
        if self.names is None:
            return self.numbers
        return [self.names[number] for number in self.numbers]

    def select(self, positions: Sequence[int]) -> "DatasetImages":
        """The images at these positions, none of which is read."""
        return replace(self, numbers=[self.numbers[position] for position in positions])


# one for all data sets, because two of them may share an open file
_reading = ForkSafeLock()


def read_one(dataset: ImageDataset, number: int, column: int | str | None = None) -> Any:
    """An item of a user's data set, or the image in its column; one thread reads at a time.

    A data set may have one open file for all items, or other state, which two threads at once would
    mix up. For the same reason an image that is only opened yet is decoded here. Raises ImageError
    for an item that can't be read.
    """
    try:
        with _reading.held():
            item = dataset[number]
            if column is None:
                return item
            image = item[column]
            if isinstance(image, Image.Image):
                image.load()
            return image
    except ImageError:  # of a data set that is a part of this one
        raise
    except Exception as error:
        name = f"{number} of {type(dataset).__name__}"
        raise ImageError(name, f"{error} ({type(error).__name__})") from error


def join_items(
    first: Sequence[ImageSource], second: Sequence[ImageSource]
) -> Sequence[ImageSource]:
    """The images of both; those of data sets are not read for that."""
    parts = (first, second)
    if not any(isinstance(part, DatasetImages) for part in parts):
        return [*first, *second]
    if isinstance(first, DatasetImages) and isinstance(second, DatasetImages):
        are_of_one = first.dataset is second.dataset and first.column == second.column
        if are_of_one:
            return replace(first, numbers=[*first.numbers, *second.numbers])
    names: list[str | int] = []
    for number, part in enumerate(parts):
        identities = part.identities if isinstance(part, DatasetImages) else range(len(part))
        # two data sets may call their items alike
        names.extend(f"{number}/{identity}" for identity in identities)
    whole: ConcatDataset[Any] = ConcatDataset(parts)  # type: ignore[arg-type]
    return DatasetImages(whole, range(len(whole)), column=None, names=names)


def select_items(items: Sequence[ImageSource], positions: Sequence[int]) -> Sequence[ImageSource]:
    """The images at these positions; those of a data set are not read for that."""
    if isinstance(items, DatasetImages):
        return items.select(positions)
    return [items[position] for position in positions]
