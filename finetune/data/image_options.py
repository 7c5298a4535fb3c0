"""The options that every constructor of `ImageDataLoaders` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, get_args

from finetune import arguments
from finetune.data.groups import Groups, checked_groups
from finetune.data.images.augment import Augment, resolve
from finetune.data.images.resize import RESIZE_METHODS, Resize
from finetune.data.images.value_range import ValueRange, checked_value_range
from finetune.data.sampling import Sampling
from finetune.image_size import ImageSize

OnError: TypeAlias = Literal["raise", "skip"]

LARGEST_SIZE = 20_000
"""Pixels of an image's side: what is longer was meant for another argument."""
MOST_CHANNELS = 1_000
"""More were meant for another argument."""
MOST_WORKERS = 1_000
"""Threads: a system that refuses more ends the process."""


class ImageOptions(TypedDict, total=False):
    """The fields of `ImageSettings`, all of them optional."""

    image_size: ImageSize | None
    channels: int
    batch_size: int
    seed: int
    groups: Groups | None
    corrections: str | Path | None
    augment: Augment
    sampling: Sampling | None
    resize: Resize
    value_range: ValueRange | None
    on_error: OnError
    num_workers: int | None
    cache_folder: str | Path | None
    cache_gigabytes: float


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How images become batches.

    image_size: side of the model's input in pixels, or (height, width) where images are no
    squares; None: what the backbone was trained with. channels: of the images and of the model's
    input. 3 are red, green and blue; 1 is grey; other numbers are bands that mean something else,
    in arrays [H, W, C], .npy files, files with a fourth band or TIFF files of as many pages; named
    augmentations leave their values alone then, and move pixels only. batch_size: images per batch.
    seed: of the split, the order, the augmentation and the new head.
    groups: images that belong together, such as those of one patient, video or product, and are
    never divided between training and validation, see `ImageDataLoaders`. corrections: a CSV file
    of wrong labels and of images to leave out, as `Learner.clean` writes it, see
    `ImageDataLoaders`. augment: random views of the training images, see there, too. sampling: how
    often an epoch has each class: None is as often as it is there, "balanced" all classes alike,
    "sqrt" in between, see `sampling.draw`. resize: how an image gets that shape. value_range:
    the two values that become black and white, such as (0, 4095), in images of more than 8 bits a
    channel, or a list of such pairs, one for each channel; None: how many bits of integers are used
    is guessed from some of the training images, and kept for prediction. on_error: "raise" at an
    unreadable file, or "skip" it (counted, listed in `skipped`, never replaced by another).
    num_workers: decoding threads; None: one for each core, up to eight.
    cache_folder: keeps decoded images between runs. cache_gigabytes: how large it may grow, in
    units of 1e9 bytes.
    """

    image_size: ImageSize | None = None
    channels: int = 3
    batch_size: int = 64
    seed: int = 0
    groups: Groups | None = None
    corrections: str | Path | None = None
    augment: Augment = "standard"
    sampling: Sampling | None = None
    resize: Resize = "crop"
    value_range: ValueRange | None = None
    on_error: OnError = "raise"
    num_workers: int | None = None
    cache_folder: str | Path | None = None
    cache_gigabytes: float = 20.0

    def __post_init__(self) -> None:
        if self.image_size is not None:
            size = arguments.image_size("image_size", self.image_size, at_most=LARGEST_SIZE)
            object.__setattr__(self, "image_size", size)
        arguments.whole_number("channels", self.channels, at_least=1, at_most=MOST_CHANNELS)
        arguments.whole_number("batch_size", self.batch_size, at_least=1)
        arguments.whole_number("seed", self.seed)
        checked_groups(self.groups)
        if self.corrections is not None:
            arguments.path("corrections", self.corrections)
        resolve(self.augment)
        if self.sampling is not None:
            arguments.choice("sampling", self.sampling, get_args(Sampling))
        arguments.choice("resize", self.resize, RESIZE_METHODS)
        checked_value_range(self.value_range, self.channels)
        arguments.choice("on_error", self.on_error, get_args(OnError))
        if self.num_workers is not None:
            arguments.whole_number(
                "num_workers", self.num_workers, at_least=1, at_most=MOST_WORKERS
            )
        if self.cache_folder is not None:
            arguments.path("cache_folder", self.cache_folder)
        arguments.real_number("cache_gigabytes", self.cache_gigabytes, above=0)
