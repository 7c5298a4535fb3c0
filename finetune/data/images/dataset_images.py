"""DatasetImages: the images of a data set, read when asked for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from finetune.data.images.decode import ImageError, ImageSource


class ImageDataset(Protocol):
    """A data set of (image, label) as torchvision's, or of rows as those of Hugging Face."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class DatasetImages(Sequence[ImageSource]):
    """The images of a data set, read when asked for.

    column: where a row has its image: 0 of (image, label), or the name in a dict.
    """

    dataset: ImageDataset
    numbers: Sequence[int]
    column: int | str = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        try:
            image = self.dataset[self.numbers[index]][self.column]
            if isinstance(image, dict):  # Hugging Face's way of an image that isn't decoded
                kept = image.get("bytes")
                image = image["path"] if kept is None else Image.open(io.BytesIO(kept))
        except Exception as error:
            name = f"{self.numbers[index]} of {type(self.dataset).__name__}"
            raise ImageError(name, f"{error} ({type(error).__name__})") from error
        return image

    def select(self, positions: Sequence[int]) -> "DatasetImages":
        return replace(self, numbers=[self.numbers[i] for i in positions])


def select_items(items: Sequence[ImageSource], positions: Sequence[int]) -> Sequence[ImageSource]:
    """The images at these positions; those of a data set are not read for that."""
    if isinstance(items, DatasetImages):
        return items.select(positions)
    return [items[position] for position in positions]
