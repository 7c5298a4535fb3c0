"""ImageBatches: training and validation images as batches, whatever they were found in."""

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from finetune import arguments
from finetune.data.batching import ImageLoader, UnlabelledLoader
from finetune.data.examples import Examples, join
from finetune.data.fingerprints import of_images
from finetune.data.groups import Groups, check_apart, refuse_list
from finetune.data.image_options import ImageOptions, ImageSettings
from finetune.data.images.augment import for_channels
from finetune.data.images.cache import ImageCache
from finetune.data.images.dataset_images import join_items
from finetune.data.images.opening import ImageError, ImageSource
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.sampled_depth import sampled_depth
from finetune.data.images.value_range import Depth, Windows, checked_value_range
from finetune.data.kept import KeptBatches
from finetune.data.loaders import Batch, DataLoaders
from finetune.data.notices import check_classes, check_leaks
from finetune.data.sampling import seen_shares
from finetune.data.sources.corrections import corrected
from finetune.data.sources.lists import without_labels
from finetune.data.summary.summary import DataSummary, summarise
from finetune.files.fingerprints import Fingerprint, of_object
from finetune.image_size import ImageSize, in_pixels
from finetune.interpret.image_grids import plot_images
from finetune.options import takes_options
from finetune.wording import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self

_DEFAULT_IMAGE_SIZE = 224
_ERRORS_LISTED = 10


class ImageBatches(DataLoaders):
    """Training and validation images as batches: all of `ImageDataLoaders` but its constructors.

    train_examples, valid_examples: what the constructors make of their arguments. folders: where
    the examples were looked for, if they were. root: the folder that images are named below; None
    is the one that all of them are in. options: see `ImageSettings`.
    """

    classes: tuple[str, ...]
    train: ImageLoader
    valid: ImageLoader
    _is_fold = False  # other folds train on what this one validates on

    @takes_options(ImageSettings)
    def __init__(
        self,
        train_examples: Examples,
        valid_examples: Examples,
        *,
        folders: Sequence[Path] = (),
        root: Path | None = None,
        **options: Unpack[ImageOptions],
    ) -> None:
        settings = ImageSettings(**options)
        how = "see from_folder and the other constructors"
        self.train_examples = arguments.instance("train_examples", train_examples, Examples, how)
        self.valid_examples = arguments.instance("valid_examples", valid_examples, Examples, how)
        self.image_size, self.batch_size = settings.image_size, settings.batch_size
        self.channels = settings.channels
        self.seed = settings.seed
        self.sampling = settings.sampling
        if self.sampling is not None and not self.train_examples.task.exclusive:
            raise ValueError(
                f"sampling={self.sampling!r} is for one class an image, and this is "
                f"task={self.train_examples.task.name!r}; leave it out"
            )
        self.folders = tuple(arguments.sequence("folders", folders, "paths"))
        if settings.groups is not None:
            self._divide_no_group(settings.groups)
        self.root = None if root is None else arguments.path("root", root)
        self.skipped: tuple[ImageError, ...] = ()
        # one cache for all images, by how they are presized, and the numbers in it of those for
        # training and for validation; folds of these data share the caches
        self._cached_items = join_items(train_examples.items, valid_examples.items)
        self._caches: dict[Preprocessing, ImageCache] = {}
        self.kept = KeptBatches()
        numbers = torch.arange(len(self._cached_items))
        self._train_numbers = numbers[: len(train_examples)]
        self._valid_numbers = numbers[len(train_examples) :]
        if settings.corrections is not None:
            self._correct(arguments.path("corrections", settings.corrections))
        image_size = _DEFAULT_IMAGE_SIZE if settings.image_size is None else settings.image_size
        value_range: Windows | Depth | None = checked_value_range(settings.value_range)
        if value_range is None:
            # once for all images, and here, where the caller's line is known
            value_range = sampled_depth(self.train_examples.items, settings.channels)
        pipeline = ImagePipeline.create(
            Preprocessing(
                image_size,
                settings.resize,
                value_range=value_range,
                channels=settings.channels,
            ),
            augment=for_channels(settings.augment, settings.channels),
            seed=settings.seed,
            num_workers=settings.num_workers,
            cache_folder=settings.cache_folder,
            cache_gigabytes=settings.cache_gigabytes,
        )
        self._use(pipeline)
        if settings.on_error == "skip":
            self._skip_unreadable()
        check_classes(self.train_examples)
        check_leaks(self.train_examples, self.valid_examples)

    def _divide_no_group(self, groups: Groups) -> None:
        """Finds the groups, where it was not done for a split; raises ValueError for divided ones.

        groups: see `groups_of`.
        """
        train, valid = self.train_examples, self.valid_examples
        if train.groups is None or valid.groups is None:
            refuse_list(groups)
            roots = [*self.folders, None, None]
            train, valid = train.in_groups(groups, roots[0]), valid.in_groups(groups, roots[1])
            self.train_examples, self.valid_examples = train, valid
        assert train.groups is not None
        assert valid.groups is not None
        check_apart(train.groups, valid.groups)

    def _correct(self, file: Path) -> None:
        """Applies a file of corrections; images that are left out stay in the cache, unread."""
        train, valid = corrected(self.train_examples, self.valid_examples, file, self.root)
        self.train_examples, self.valid_examples = train.examples, valid.examples
        self._train_numbers = self._train_numbers[train.positions]
        self._valid_numbers = self._valid_numbers[valid.positions]

    def _use(self, pipeline: ImagePipeline) -> None:
        """Makes loaders of this pipeline's images; caches are kept for each way of presizing."""
        self.pipeline = pipeline
        presizing = pipeline.preprocessing.without_normalisation()
        train, valid = self.train_examples, self.valid_examples
        if presizing not in self._caches:
            self._caches[presizing] = pipeline.cache(self._cached_items, for_training=True)
        cache = self._caches[presizing]
        train_cache = cache.select(self._train_numbers)
        # no view of a validation image reaches its ends
        valid_cache = cache.select(self._valid_numbers).squares(keep_ends=self._is_fold)
        super().__init__(
            ImageLoader(train, train_cache, self.batch_size, shuffle=True, sampling=self.sampling),
            # no gradients are kept, so that twice as many fit
            ImageLoader(valid, valid_cache, 2 * self.batch_size, shuffle=False),
            seed=self.seed,
            classes=train.classes,
            task=train.task,
        )

    def _skip_unreadable(self) -> None:
        """Leaves out the examples whose image can't be read, with a warning that lists them.

        Raises ValueError where a class would be left without a training image.
        """
        caches = (self.train.cache, self.valid.cache)
        errors: list[ImageError] = []
        readable = []
        for cache in caches:
            error_of = dict(cache.unreadable())
            errors.extend(error_of.values())
            numbers = [number for number in range(len(cache.items)) if number not in error_of]
            readable.append(torch.tensor(numbers, dtype=torch.int64))
        if not errors:
            return
        train = self.train_examples.select(readable[0])
        before, after = self.train_examples.counts(), train.counts()
        lost_a_class = any(now == 0 < was for was, now in zip(before, after, strict=True))
        if lost_a_class or not len(train):
            raise ValueError(
                f"a class is left without a readable training image; first: {errors[0]}"
            )
        self.skipped = tuple(errors)
        self.train_examples = train
        self.valid_examples = self.valid_examples.select(readable[1])
        self._train_numbers = self._train_numbers[readable[0]]
        self._valid_numbers = self._valid_numbers[readable[1]]
        self._use(self.pipeline)
        listed = "\n".join(f"  {error}" for error in errors[:_ERRORS_LISTED])
        if len(errors) > _ERRORS_LISTED:
            listed += f"\n  and {len(errors) - _ERRORS_LISTED} more, see .skipped"
        warn(f"left out {len(errors)} unreadable images:\n{listed}")

    @property
    def preprocessing(self) -> Preprocessing:
        """The deterministic way of an image into the model."""
        return self.pipeline.preprocessing

    def for_backbone(
        self, image_size: ImageSize, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> "Self":
        """The same images, normalised for a backbone, and in its size unless one was given.

        mean, std: of each channel, for pixels in [0, 1].
        """
        preprocessing = replace(
            self.preprocessing, image_size=self.image_size or image_size, mean=mean, std=std
        )
        loaders = copy.copy(self)
        loaders._use(self.pipeline.with_preprocessing(preprocessing))
        return loaders

    def folds(self, count: int = 5) -> "list[Self]":
        """The same images, divided anew `count` times, so that each is for validation once.

        All images take part, those for validation, too. Each class is divided evenly over the
        folds, as are the labels where an image may have several; groups are not divided. Which fold
        an image is in depends on the seed and on what the images are called, not on their order.
        What has been decoded is shared by all. A warning says which classes have one image, or
        group, and so none for training in the fold that validates it. `cross_validate` trains on
        each fold. Raises ValueError for fewer images, or groups, than folds.

        >>> import numpy as np
        >>> from finetune import ImageDataLoaders
        >>> images = [np.full((8, 8, 3), number, np.uint8) for number in range(10)]
        >>> data = ImageDataLoaders.from_lists(images, ["a", "b"] * 5, batch_size=4)
        >>> [len(fold.valid_examples) for fold in data.folds(3)]
        [4, 3, 3]
        """
        arguments.whole_number("count", count, at_least=2)
        whole, places = join(self.train_examples, self.valid_examples)
        cached_numbers = torch.cat([self._train_numbers, self._valid_numbers])[places]
        fold_of = whole.fold_numbers(count, self.seed)
        folds = []
        for fold in range(count):
            train = torch.nonzero(fold_of != fold).flatten()
            valid = torch.nonzero(fold_of == fold).flatten()
            loaders = copy.copy(self)
            loaders.train_examples = whole.select(train)
            loaders.valid_examples = whole.select(valid)
            loaders._train_numbers = cached_numbers[train]
            loaders._valid_numbers = cached_numbers[valid]
            loaders._is_fold = True
            check_classes(loaders.train_examples)
            loaders._use(self.pipeline)
            folds.append(loaders)
        return folds

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        return self.pipeline.prepare(batch, view)

    def inputs(self, items: Sequence[ImageSource], device: torch.device) -> Tensor:
        return self.pipeline.inputs(items, device)

    @property
    def has_views(self) -> bool:
        return self.pipeline.has_views

    def displayable(self, inputs: Tensor) -> Any:
        return self.pipeline.displayable(inputs)

    def describe_inputs(self) -> dict[str, Any]:
        return self.pipeline.describe()

    def fingerprint(self) -> Fingerprint:
        """As of all data; files are known by their names, relative to the folder they are in."""
        preprocessing = self.preprocessing
        size = preprocessing.image_size
        return {
            "seed": self.seed,
            "task": self.task.name,
            **of_images("training", self.train_examples),
            **of_images("validation", self.valid_examples),
            "batch size": self.batch_size,
            "image size": size if isinstance(size, int) else in_pixels(size),
            **({} if self.channels == 3 else {"channels": self.channels}),
            "resize": preprocessing.resize,
            "value range": str(preprocessing.value_range),
            **of_object("augmentation", self.pipeline.augmentation),
            "sampling": self.sampling,
        }

    def class_counts(self) -> dict[str, dict[str, Any]]:
        counts = {}
        for part, examples in (("train", self.train_examples), ("valid", self.valid_examples)):
            by_class = dict(zip(examples.classes, examples.counts(), strict=False))
            counts[part] = {"images": len(examples), "classes": by_class}
        return counts

    def training_groups(self) -> Sequence[str] | None:
        groups = self.train_examples.groups
        return None if groups is None or len(set(groups)) < 2 else groups

    def class_shares(self) -> dict[str, float]:
        images = len(self.train_examples)
        # a regression has no counts
        counts = dict(zip(self.classes, self.train_examples.counts(), strict=False))
        return seen_shares(self.task, counts, images, self.sampling)

    def test_loader(
        self, items: str | Path | Sequence[ImageSource], *, batch_size: int | None = None
    ) -> UnlabelledLoader:
        """Images without labels in batches, preprocessed as those for validation are.

        items: a folder, or paths, PIL images, arrays and tensors. `for batch in loader` gives
        batches whose inputs go straight into a model. Take it from `learner.data`, which knows the
        size and the normalisation of the learner's backbone.
        """
        if batch_size is None:
            batch_size = 2 * self.batch_size
        arguments.whole_number("batch_size", batch_size, at_least=1)
        examples = without_labels(items, self.classes, self.task)
        cache = self.pipeline.cache(examples.items)
        return UnlabelledLoader(examples, cache, batch_size, self.prepare)

    # --- look at the data

    @takes_options()
    def show_batch(self, count: int = 12, *, epoch: int = 0, columns: int = 6) -> "Figure":
        """The first training images of an epoch, augmented as the model sees them, with labels.

        The same images for the same seed and epoch.
        """
        arguments.whole_number("count", count, at_least=1)
        arguments.whole_number("epoch", epoch, at_least=0)
        arguments.whole_number("columns", columns, at_least=1)
        numbers = torch.cat(self.train.order(self.seed, epoch))[:count]
        with closing(self.train.fetch([numbers])) as batches:
            batch = self.prepare(next(batches), epoch)
        labels = self.train_examples.select(numbers).texts()
        return plot_images(self.displayable(batch.inputs), labels, columns=columns)

    def summary(self, *, decode: bool = False) -> DataSummary:
        """What there is: classes, sizes, formats, unreadable files, duplicates and leaks.

        Reads the headers of all files, and the bytes of those that have the same size as another.
        decode: look for unreadable files by decoding each one, which takes as long as an epoch.
        """
        arguments.flag("decode", decode)
        return summarise(
            self.train_examples,
            self.valid_examples,
            folders=self.folders,
            skipped=self.skipped,
            decode=decode,
            num_workers=self.pipeline.num_workers,
            value_range=self.preprocessing.value_range,
            channels=self.channels,
        )

    def __repr__(self) -> str:
        names = self.task.name_is if len(self.classes) == 1 else self.task.names_are
        return (
            f"{type(self).__name__}({len(self.train_examples)} training and "
            f"{len(self.valid_examples)} validation images, {len(self.classes)} {names}, "
            f"{in_pixels(self.preprocessing.image_size)}, batches of {self.batch_size})"
        )
