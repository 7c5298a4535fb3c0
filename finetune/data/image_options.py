"""The options that every constructor of `ImageDataLoaders` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from finetune.data.images.augment import Augment
from finetune.data.images.decode import Resize

OnError: TypeAlias = Literal["raise", "skip"]


class ImageOptions(TypedDict, total=False):
    """The fields of `ImageSettings`, all of them optional."""

    image_size: int | None
    batch_size: int
    seed: int
    augment: Augment
    resize: Resize
    on_error: OnError
    workers: int | None
    cache_folder: str | Path | None
    cache_gigabytes: float


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How images become batches.

    image_size: side of the model's input in pixels; None: what the backbone was trained with.
    batch_size: images per batch. seed: of the split, the order, the augmentation and the new head.
    augment: random views of the training images, see `ImageDataLoaders`. resize: how a rectangle
    becomes a square. on_error: "raise" at an unreadable file, or "skip" it (counted, listed in
    `skipped`, never replaced by another). workers: decoding threads; None: one for each core, up to
    eight. cache_folder: keeps decoded images between runs. cache_gigabytes: how large it may grow,
    in units of 1e9 bytes.
    """

    image_size: int | None = None
    batch_size: int = 64
    seed: int = 0
    augment: Augment = "standard"
    resize: Resize = "crop"
    on_error: OnError = "raise"
    workers: int | None = None
    cache_folder: str | Path | None = None
    cache_gigabytes: float = 20.0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be positive, got {self.workers}")
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {self.on_error!r}")
