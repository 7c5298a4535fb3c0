"""ImageLoaders: images as batches; `ImageDataLoaders` adds the ways to say which images."""

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from finetune.data import batch_pictures
from finetune.data.batching import ImageLoader
from finetune.data.examples import Examples
from finetune.data.images.augment import (
    DRAWS,
    Augment,
    Augmentation,
    augment,
    center_crop,
    normalise,
    resolve,
)
from finetune.data.images.cache import ImageCache
from finetune.data.images.decode import ImageError, ImageSource, Resize
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.store import CacheFolder
from finetune.data.images.transforms import transformed
from finetune.data.loaders import Batch, DataLoaders
from finetune.data.relabelling import relabelled
from finetune.data.summary.summary import DataSummary, summarise
from finetune.data.unlabelled import UnlabelledLoader, unlabelled
from finetune.randomness import uniforms

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self

OnError = Literal["raise", "skip"]


class ImageLoaders(DataLoaders):
    """Training and validation examples as batches; the options are those of `ImageDataLoaders`.

    folders: where the examples were looked for, if they were.
    """

    classes: tuple[str, ...]
    train: ImageLoader
    valid: ImageLoader

    def __init__(
        self,
        train_examples: Examples,
        valid_examples: Examples,
        *,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
        folders: Sequence[Path] = (),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be positive, got {workers}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.train_examples, self.valid_examples = train_examples, valid_examples
        self.image_size, self.batch_size = image_size, batch_size
        self.augmentation = resolve(augment)
        self.workers = workers if workers is not None else min(8, os.cpu_count() or 1)
        self.skipped: tuple[ImageError, ...] = ()
        self.folders = tuple(folders)
        self._folder = None if cache_folder is None else CacheFolder(cache_folder, cache_gigabytes)
        self._caches: dict[Preprocessing, tuple[ImageCache, ImageCache]] = {}
        self.seed = seed
        self._use(Preprocessing(224 if image_size is None else image_size, resize))
        if on_error == "skip":
            self._skip_unreadable()

    def _use(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        stored = preprocessing.without_normalisation()
        if stored not in self._caches:
            both, keep = (self.train_examples, self.valid_examples), self._folder
            train, valid = (
                ImageCache(part, stored, self.workers, folder=keep, others=other.items)
                for part, other in zip(both, both[::-1], strict=True)
            )
            self._caches[stored] = train, valid
        train, valid = self._caches[stored]
        super().__init__(
            ImageLoader(train, self.batch_size, shuffle=True),
            ImageLoader(valid, 2 * self.batch_size, shuffle=False),
            seed=self.seed,
            classes=self.train_examples.classes,
            task=self.train_examples.task,
        )

    def _skip_unreadable(self) -> None:
        found: list[ImageError] = []
        kept = []
        (stored, caches), *_ = self._caches.items()
        for cache in caches:
            bad = dict(cache.unreadable())
            found += bad.values()
            good = [i for i in range(len(cache.examples)) if i not in bad]
            kept.append(cache.select(torch.tensor(good, dtype=torch.int64)))
        if not found:
            return
        train, valid = kept
        before, after = self.train_examples.counts(), train.examples.counts()
        if not len(train.examples) or any(a == 0 < b for a, b in zip(after, before, strict=True)):
            raise ValueError(
                f"a class is left without a readable training image; first: {found[0]}"
            )
        self.skipped = tuple(found)
        self.train_examples, self.valid_examples = train.examples, valid.examples
        self._caches[stored] = train, valid
        self._use(self.preprocessing)
        listed = "\n".join(f"  {error}" for error in found[:10])
        more = f"\n  and {len(found) - 10} more, see .skipped" if len(found) > 10 else ""
        warnings.warn(f"left out {len(found)} unreadable images:\n{listed}{more}", stacklevel=4)

    def for_backbone(
        self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> "Self":
        """The same images, normalised for a backbone, and in its size unless one was given."""
        new = copy.copy(self)
        new._use(
            replace(
                self.preprocessing,
                image_size=self.image_size or image_size,
                mean=mean,
                std=std,
            )
        )
        return new

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        if not self.preprocessing.are_presized(batch.inputs):
            return batch  # a loader of the user's own gives what the model takes
        images, size = batch.inputs, self.preprocessing.image_size
        mean, std = self.preprocessing.normalisation(images.device)
        if view is None or self.augmentation is None:
            return replace(batch, inputs=center_crop(images, size, mean, std))
        assert batch.indices is not None
        if isinstance(self.augmentation, Augmentation):
            draws = uniforms(self.seed, "augment", view, batch.indices, DRAWS)
            if images.is_cuda:
                draws = draws.pin_memory()
            draws = draws.to(images.device, non_blocking=images.is_cuda)
            inputs = augment(images, draws, self.augmentation, size, mean, std)
        else:
            views = transformed(images, self.augmentation, self.seed, view, batch.indices, size)
            inputs = normalise(views, mean, std)
        return replace(batch, inputs=inputs)

    def inputs(self, items: Sequence[ImageSource], device: torch.device) -> Tensor:
        return self.preprocessing.inputs(items, device)

    def describe_inputs(self) -> dict[str, Any]:
        return self.preprocessing.to_dict()

    def class_counts(self) -> dict[str, dict[str, Any]]:
        both = {"train": self.train_examples, "valid": self.valid_examples}
        regression = self.task == "regression"
        return {
            part: {
                "images": len(own),
                "classes": {} if regression else dict(zip(own.classes, own.counts(), strict=True)),
            }
            for part, own in both.items()
        }

    def test_loader(
        self, items: str | Path | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> UnlabelledLoader:
        """Images without labels in batches, preprocessed as those for validation are.

        items: a folder, or paths, PIL images, arrays and tensors. `for batch in loader` gives
        batches whose inputs go straight into a model. Take it from `learner.data`, which knows the
        size and the normalisation of the learner's backbone.
        """
        examples = unlabelled(items, self.classes, self.task)
        stored = self.preprocessing.without_normalisation()
        cache = ImageCache(examples, stored, self.workers, folder=self._folder)
        return UnlabelledLoader(cache, batch_size or 2 * self.batch_size, self.prepare)

    def adopted(self, loader: ImageLoader) -> ImageLoader:
        """The examples of any loader of images, in this size and numbered by these classes.

        Raises ValueError for labels that mean something else here.
        """
        for own in (self.train, self.valid):
            if loader.cache.examples is own.cache.examples:
                return own
        examples = relabelled(loader.cache.examples, self.classes, self.task)
        stored = self.preprocessing.without_normalisation()
        if examples is loader.cache.examples and loader.cache.preprocessing == stored:
            return loader
        cache = ImageCache(examples, stored, self.workers, folder=self._folder)
        return ImageLoader(cache, loader.batch_size, shuffle=False)

    # --- look at the data

    def show_batch(self, count: int = 12, *, epoch: int = 0, columns: int = 6) -> "Figure":
        """The first training images of an epoch, augmented as the model sees them, with labels.

        The same images for the same seed and epoch.
        """
        return batch_pictures.show(self, count, epoch, columns)

    def summary(self, *, decode: bool = False) -> DataSummary:
        """What there is: classes, sizes, formats, unreadable files, duplicates and leaks.

        Reads the headers of all files, and the bytes of those that have the same size as another.
        decode: look for unreadable files by decoding each one, which takes as long as an epoch.
        """
        return summarise(
            self.train_examples,
            self.valid_examples,
            folders=self.folders,
            skipped=self.skipped,
            decode=decode,
            workers=self.workers,
        )

    def __repr__(self) -> str:
        what = "classes"
        if self.task == "regression":
            what = "target" if len(self.classes) == 1 else "targets"
        return (
            f"{type(self).__name__}({len(self.train_examples)} training and "
            f"{len(self.valid_examples)} validation images, {len(self.classes)} {what}, "
            f"{self.preprocessing.image_size} px, batches of {self.batch_size})"
        )
