"""ImagePipeline: every step from an image file to the model's input; it knows no labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.data.images.augment import (
    Augment,
    Augmentation,
    Transform,
    augment,
    center_crop,
    draw_numbers,
    normalise,
    resolve,
)
from finetune.data.images.cache import ImageCache
from finetune.data.images.opening import ImageSource
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.store import CacheFolder
from finetune.data.images.transforms import transformed
from finetune.data.images.whole import WholeImages
from finetune.data.loaders import Batch


def default_num_workers() -> int:
    """Threads that decode images: one for each core, up to eight."""
    return min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class ImagePipeline:
    """Everything that happens to an image before the model sees it.

        file -> decoded and presized, once, into a cache -> batch on the device -> `prepare`

    preprocessing: the deterministic steps. augmentation: makes the random views; None makes none.
    seed: the seed of the random views. num_workers: threads that decode. cache_folder: keeps
    decoded images between runs; None keeps them only as long as they are used.
    """

    preprocessing: Preprocessing
    augmentation: Augmentation | Transform | None = None
    seed: int = 0
    num_workers: int = 1
    cache_folder: CacheFolder | None = None

    @classmethod
    def create(
        cls,
        preprocessing: Preprocessing,
        *,
        augment: Augment = None,
        seed: int = 0,
        num_workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImagePipeline":
        """A pipeline from the options that users pass.

        augment: a name, an `Augmentation`, a function of an image, or None. num_workers: None takes
        `default_num_workers()`. cache_gigabytes: limit of the cache folder, in units of 1e9 bytes.
        Raises ValueError for an option out of range, and OSError for a folder that can't be
        written.
        """
        folder = None
        if cache_folder is not None:
            folder = CacheFolder(cache_folder, cache_gigabytes)
        if num_workers is None:
            num_workers = default_num_workers()
        return cls(preprocessing, resolve(augment), seed, num_workers, folder)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "ImagePipeline":
        """The same pipeline with other deterministic steps."""
        return replace(self, preprocessing=preprocessing)

    def cache(self, items: Sequence[ImageSource], *, for_training: bool = False) -> ImageCache:
        """A cache of these images, decoded and presized.

        for_training: with the ends of elongated images, which random views reach.
        """
        # a function of the user's own gets a square
        has_places = for_training and isinstance(self.augmentation, Augmentation)
        return ImageCache(
            items,
            self.preprocessing.without_normalisation(),
            self.num_workers,
            folder=self.cache_folder,
            margin=self.preprocessing.margin if has_places else 0,
        )

    def inputs(self, items: Sequence[ImageSource], device: torch.device) -> Tensor:
        """Images of any kind as one batch of model inputs, float32 [B, 3, height, width].

        Raises ImageError for an image that can't be read.
        """
        return self.preprocessing.inputs(items, device)

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        """Does on the device what is left to do: one resample and the normalisation.

        view: the number of a random view, which is the same for the same number; None is the middle
        of the image. Inputs that are not uint8 are ready for the model and stay as they are.
        """
        if not self.preprocessing.are_presized(batch.inputs):
            return batch
        images, size = batch.inputs, self.preprocessing.image_size
        mean, std = self.preprocessing.normalisation(images.device)
        if view is None or self.augmentation is None:
            return replace(batch, inputs=center_crop(images, size, mean, std))
        assert batch.indices is not None
        if isinstance(self.augmentation, Augmentation):
            # drawn by seed, view and image, so that an image looks the same in any batch
            draws = draw_numbers(self.seed, view, batch.indices, images.device)
            inputs = augment(images, draws, self.augmentation, size, mean, std)
        else:
            if isinstance(images, WholeImages):
                images = images.middle_squares()
            views = transformed(images, self.augmentation, self.seed, view, batch.indices, size)
            inputs = normalise(views, mean, std)
        return replace(batch, inputs=inputs)

    @property
    def has_views(self) -> bool:
        """Whether random views of an image differ from each other."""
        return self.augmentation is not None

    def displayable(self, inputs: Tensor) -> Any:
        """Model inputs [B, C, H, W] as images that a person can look at: [B, H, W, 3] in [0, 1].

        Of more channels these are the first three, of two the first one, in grey.
        """
        mean, std = self.preprocessing.normalisation(torch.device("cpu"))
        images = inputs.float().cpu() * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
        shown = 3 if images.shape[1] >= 3 else 1
        images = images[:, :shown].expand(-1, 3, -1, -1)
        return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()

    def describe(self) -> dict[str, Any]:
        """The deterministic part as plain data, from which it can be rebuilt elsewhere."""
        return self.preprocessing.to_dict()
