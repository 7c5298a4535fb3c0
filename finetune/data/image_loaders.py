"""ImageDataLoaders: pictures as batches; long because four constructors spell out their options."""

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from finetune.data import examples as sources
from finetune.data.augment import DRAWS, Augmentation, augment, center_crop
from finetune.data.cache import ImageCache
from finetune.data.decode import ImageError, ImageSource, Resize
from finetune.data.examples import Examples, ImageDataset
from finetune.data.image_loader import ImageLoader
from finetune.data.loaders import Batch, DataLoaders
from finetune.data.picture_store import CacheFolder
from finetune.data.preprocessing import Preprocessing
from finetune.data.table import read_csv
from finetune.randomness import uniforms

OnError = Literal["raise", "skip"]
STANDARD = Augmentation()


class ImageDataLoaders(DataLoaders):
    """Training and validation pictures; make one with `from_folder` and its sisters.

    All of them take: image_size, the side of the model's input in pixels (None: what the backbone
    was trained with); batch_size; seed, of the split, the order, the augmentation and the new
    head; augment, an `Augmentation` or None; resize, how a rectangle becomes a square; on_error,
    "raise" at an unreadable file or "skip" it (counted, listed in `skipped`, never replaced by
    another); workers, the decoding threads; cache_folder, cache_gigabytes.

    Pictures are decoded once and kept, for as long as the loaders live, in memory (a quarter of it
    for the whole process) or else in a temporary file. With a cache_folder those that are files
    are kept there between runs, decoded again if their file changes. It holds up to
    cache_gigabytes (1e9 bytes each): image files * (image_size / 0.875) ** 2 * 3 bytes for a
    data set, whatever its split; the least recently used data sets and sizes make room for a new
    one. You may delete the folder when no run uses it. A folder that can't be written or a full
    disk is an OSError; pictures that fit nowhere are decoded in every epoch, with a warning.
    """

    classes: tuple[str, ...]

    def __init__(
        self,
        train_examples: Examples,
        valid_examples: Examples,
        *,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augmentation | None = STANDARD,
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be positive, got {workers}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.train_examples, self.valid_examples = train_examples, valid_examples
        self.image_size, self.batch_size, self.augmentation = image_size, batch_size, augment
        self.workers = workers if workers is not None else min(8, os.cpu_count() or 1)
        self.skipped: tuple[ImageError, ...] = ()
        self._folder = None if cache_folder is None else CacheFolder(cache_folder, cache_gigabytes)
        self._caches: dict[Preprocessing, tuple[ImageCache, ImageCache]] = {}
        self.seed = seed
        self._use(Preprocessing(224 if image_size is None else image_size, resize))
        if on_error == "skip":
            self._skip_unreadable()

    def _use(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        # normalisation does not change the stored pictures, so that backbones can share them
        stored = Preprocessing(
            preprocessing.image_size, preprocessing.resize, preprocessing.crop_fraction
        )
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
        if len(set(train.examples.labels.tolist())) < len(train.examples.classes):
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
    ) -> "ImageDataLoaders":
        """The same pictures, normalised for a backbone, and in its size unless one was given."""
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
        images, size = batch.inputs, self.preprocessing.image_size
        mean, std = self.preprocessing.normalisation(images.device)
        if view is not None and self.augmentation is not None:
            assert batch.indices is not None
            draws = uniforms(self.seed, "augment", view, batch.indices, DRAWS)
            if images.is_cuda:
                draws = draws.pin_memory()
            draws = draws.to(images.device, non_blocking=images.is_cuda)
            inputs = augment(images, draws, self.augmentation, size, mean, std)
        else:
            inputs = center_crop(images, size, mean, std)
        return replace(batch, inputs=inputs)

    def inputs(self, items: Sequence[ImageSource], device: torch.device) -> Tensor:
        return self.preprocessing.inputs(items, device)

    def describe_inputs(self) -> dict[str, Any]:
        return self.preprocessing.to_dict()

    def class_counts(self) -> dict[str, dict[str, int]]:
        parts = {"train": self.train_examples, "valid": self.valid_examples}
        return {name: sources.class_counts(part) for name, part in parts.items()}

    def __repr__(self) -> str:
        return (
            f"ImageDataLoaders({len(self.train_examples)} training and "
            f"{len(self.valid_examples)} validation images, {len(self.classes)} classes, "
            f"{self.preprocessing.image_size} px, batches of {self.batch_size})"
        )

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        train: str | None = None,
        valid: str | None = None,
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augmentation | None = STANDARD,
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Pictures in `<folder>/<class>/`, split at random, or in `<folder>/<train>/<class>/` and
        `<folder>/<valid>/<class>/`.

        valid_fraction: share of each class held out, where no split is given. The other options are
        the class's. Raises FileNotFoundError or ValueError for a folder that makes no classifier.
        """
        root = Path(folder)
        if (train is None) != (valid is None):
            raise ValueError(f"give both train= and valid=, or neither; got {train=}, {valid=}")
        if train is None or valid is None:
            parts = sources.from_folder(root).split(valid_fraction, seed)
        else:
            first = sources.from_folder(root / train)
            parts = (first, sources.from_folder(root / valid, first.classes))
        return cls(
            *parts,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            resize=resize,
            on_error=on_error,
            workers=workers,
            cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )

    @classmethod
    def from_csv(
        cls,
        file: str | Path,
        folder: str | Path | None = None,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        valid_column: str | None = None,
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augmentation | None = STANDARD,
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Pictures and labels from a CSV file with a header; by default its first two columns.

        folder: what the paths are relative to, by default the CSV file's folder. valid_column: a
        column that marks validation rows with 1, true, yes or valid; without it, a random split.
        """
        path = Path(file)
        base = path.parent if folder is None else Path(folder)
        items, labels, marks = read_csv(path, base, image_column, label_column, valid_column)
        parts = sources.from_marked(items, labels, marks, valid_fraction, seed)
        return cls(
            *parts,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            resize=resize,
            on_error=on_error,
            workers=workers,
            cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )

    @classmethod
    def from_lists(
        cls,
        images: Sequence[ImageSource],
        labels: Sequence[str],
        *,
        is_valid: Sequence[bool] | None = None,
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augmentation | None = STANDARD,
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Pictures (paths, PIL images, arrays or tensors) with one class name each.

        is_valid: which of them are for validation; without it the split is random.
        """
        parts = sources.from_marked(images, labels, is_valid, valid_fraction, seed)
        return cls(
            *parts,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            resize=resize,
            on_error=on_error,
            workers=workers,
            cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )

    @classmethod
    def from_dataset(
        cls,
        train: ImageDataset,
        valid: ImageDataset | None = None,
        *,
        classes: Sequence[str] | None = None,
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augmentation | None = STANDARD,
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Data sets of (image, class index), as torchvision's are, without a transform.

        classes: names, by default the data set's own. Without `valid` the split is random.
        """
        examples = sources.from_dataset(train, classes)
        if valid is None:
            parts = examples.split(valid_fraction, seed)
        else:
            own = classes or getattr(valid, "classes", None) or examples.classes
            found = sources.from_dataset(valid, own)
            parts = (examples, sources.in_classes(found, examples.classes))
        return cls(
            *parts,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            augment=augment,
            resize=resize,
            on_error=on_error,
            workers=workers,
            cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )
