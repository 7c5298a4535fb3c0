"""ImageDataLoaders: training and validation images, from wherever they are, as batches."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
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
from finetune.data.images.dataset_images import DatasetImages, ImageDataset, join_items
from finetune.data.images.decode import wide_values
from finetune.data.images.opening import ImageError, ImageSource
from finetune.data.images.packed import PackedImage
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.value_range import Depth, Windows, checked_value_range, guessed_depth
from finetune.data.kept import KeptBatches
from finetune.data.loaders import Batch, DataLoaders
from finetune.data.notices import check_classes, check_leaks
from finetune.data.sampling import seen_shares
from finetune.data.sources import datasets
from finetune.data.sources.corrections import corrected
from finetune.data.sources.folders import from_folder
from finetune.data.sources.lists import from_marked, without_labels
from finetune.data.sources.names import Pattern, from_names
from finetune.data.sources.parquet import ParquetLayout, are_parquet, from_parquet
from finetune.data.sources.presence import check_present
from finetune.data.sources.shard_index import LabelFile, LabelRule
from finetune.data.sources.shards import ShardLayout, from_shards, shard_paths
from finetune.data.sources.tables import Layout, Rows, read_csv, read_table
from finetune.data.summary.summary import DataSummary, summarise
from finetune.dictionary import ImageDataLoadersType, answers_other_words
from finetune.files.fingerprints import Fingerprint, of_object
from finetune.files.names import shared_folder
from finetune.image_size import ImageSize, in_pixels
from finetune.interpret.image_grids import plot_images
from finetune.options import takes_options
from finetune.tasks import DEFAULT_TASK, TaskLike, resolve_task
from finetune.wording import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self

_DEFAULT_IMAGE_SIZE = 224
_ERRORS_LISTED = 10
_IMAGES_SAMPLED, _ITEMS_SAMPLED = 32, 8
"""So many training images are looked at for the values that they have. Items of a data set are
fewer, since each is decoded, whatever its depth."""


@answers_other_words("ImageDataLoaders")
class ImageDataLoaders(DataLoaders, metaclass=ImageDataLoadersType):
    """Training and validation images; make one with `from_folder` and its sisters.

    All of them take the options of `ImageSettings`: image_size, channels, batch_size, seed,
    augment, sampling, groups, corrections, resize, value_range, on_error, num_workers, cache_folder
    and cache_gigabytes.

    augment: "none", "light", "standard" or "strong", an `Augmentation`, or any function of one
    image, such as torchvision's v2 transforms: a uint8 tensor [3, H, W] in, a tensor [3, h, w]
    out, uint8 or float in [0, 1]. It is called for each image with the global generators of
    torch, numpy and Python seeded by (seed, epoch, the image's number), so that epochs repeat;
    it may keep no other state. Its result is resized to image_size and then normalised. It gets the
    middle square of an elongated image, as validation does. Other random views are anywhere along
    the image, in the middle of it that is 1.5 times as long as its shorter side.

    task: "single_label", one class name an image; "multi_label", any number of them, targets
    float32 [B, C]; "regression", one or more numbers, targets float32 [B, K], whose names `classes`
    are; or a `Task` of your own. A random split holds out a share of each class, or else of all
    images.

    groups: images of one group are never divided by a random split; one that is given and divides
    them is an error. It is a list with the group of each image; the name of a table's column; a
    function of the path; or a regular expression whose group in brackets is found in the path
    below the folder: `groups=r"(patient_\\d+)"`. Which side a group is on depends on its name,
    so that images that join it later follow it.

    corrections: what `Learner.clean` or `finetune clean` writes, or a table of your own with the
    columns image, label, action and new_label. An image is the path below the folder of the data
    (or any path of the file; or its number, where it is no file); the action is keep, relabel,
    remove, or nothing. They are applied after the split, so that no image changes sides. The files
    stay as they are.

    Images are decoded once and kept, for as long as the loaders live, in memory (a quarter of it
    for the whole process) or else in a temporary file. With a cache_folder those that are files
    are kept there between runs, decoded again if their file changes. It holds up to
    cache_gigabytes: image files * (image_size / 0.875) ** 2 * 3 bytes for a data set, whatever its
    split, and half as much again for the ends of elongated images where the input is a square; the
    least recently used data sets and sizes make room for a new one. You may delete the folder when
    no run uses it. A folder that can't be written or a full disk is an OSError; images that fit
    nowhere are decoded in every epoch, with a warning.

    train_examples, valid_examples: what the constructors make of their arguments. folders: where
    the examples were looked for, if they were. root: the folder that images are named below; None
    is the one that all of them are in.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> data
    ImageDataLoaders(10 training and 2 validation images, 2 classes, 32 px, batches of 4)
    >>> data.classes, len(data.train)  # and batches an epoch
    (('dark', 'light'), 2)
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
            value_range = guessed_depth(_wide_sample(self.train_examples.items, settings.channels))
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

    # --- where images come from

    @classmethod
    @takes_options(ImageSettings)
    def from_folder(
        cls,
        folder: str | Path,
        *,
        train: str | None = None,
        valid: str | None = None,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images in one folder for each class, `<folder>/<class>/`, split at random.

        train, valid: names of folders inside, where the images are split already, into
        `<folder>/<train>/<class>/` and `<folder>/<valid>/<class>/`. valid_fraction: share of each
        class held out, where no split is given. options: see `ImageSettings`. Raises
        FileNotFoundError or ValueError for a folder that makes no classifier.
        """
        settings = ImageSettings(**options)
        root = arguments.path("folder", folder)
        refuse_list(settings.groups)
        arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
        if (train is None) != (valid is None):
            raise ValueError(f"give both train= and valid=, or neither; got {train=}, {valid=}")
        if train is None or valid is None:
            whole = from_folder(root).in_groups(settings.groups, root)
            examples = whole.split(valid_fraction, settings.seed, root=root)
            return cls(*examples, folders=[root], root=root, **options)
        folders = [root / arguments.path("train", train), root / arguments.path("valid", valid)]
        train_examples = from_folder(folders[0])
        valid_examples = from_folder(folders[1], train_examples.classes)
        return cls(train_examples, valid_examples, folders=folders, root=root, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_csv(
        cls,
        file: str | Path,
        folder: str | Path | None = None,
        *,
        image_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        valid_column: str | None = None,
        task: TaskLike = DEFAULT_TASK,
        label_delimiter: str = " ",
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images and labels from a CSV file with a header.

        folder: what the paths are relative to, by default the CSV file's folder. image_column: by
        default the first column that names images; label_column: the one after it, or the only
        other one; of a regression, one column or a list of them. valid_column: a column that marks
        validation rows with 1, true, yes or valid; without it, a random split.
        label_delimiter: what is between the labels of an image, if task is "multi_label"; none is
        an empty cell. options: see `ImageSettings`.
        """
        path = arguments.path("file", file)
        base = path.parent if folder is None else arguments.path("folder", folder)
        layout = Layout(
            image_column,
            label_column,
            valid_column,
            resolve_task(task),
            label_delimiter,
            _group_column(**options),
        )
        rows = read_csv(path, base, layout)
        check_present(rows.items, base, repr(str(path)))
        return cls._from_rows(rows, base, layout, valid_fraction, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_table(
        cls,
        table: Any,
        folder: str | Path | None = None,
        *,
        image_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        valid_column: str | None = None,
        task: TaskLike = DEFAULT_TASK,
        label_delimiter: str = " ",
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images and labels from a data frame, or from a mapping of names to lists.

        table: of pandas, polars, pyarrow, or whatever speaks their protocols; the columns are as in
        `from_csv`. folder: what the paths are relative to, by default the present folder. Instead
        of paths there may be images, and instead of labels with a delimiter lists of them. options:
        see `ImageSettings`.
        """
        base = None if folder is None else arguments.path("folder", folder)
        layout = Layout(
            image_column,
            label_column,
            valid_column,
            resolve_task(task),
            label_delimiter,
            _group_column(**options),
        )
        rows = read_table(table, base, layout)
        check_present(rows.items, base, "the table")
        return cls._from_rows(rows, base, layout, valid_fraction, **options)

    @classmethod
    def _from_rows(
        cls,
        rows: Rows,
        folder: Path | None,
        layout: Layout,
        valid_fraction: float,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        settings = ImageSettings(**options)
        examples = from_marked(
            rows.items,
            rows.labels,
            rows.is_valid,
            valid_fraction,
            settings.seed,
            classes=rows.names,
            task=layout.task,
            groups=settings.groups if rows.groups is None else rows.groups,
            root=folder,
        )
        return cls(*examples, root=folder, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_lists(
        cls,
        images: Sequence[ImageSource],
        labels: Sequence[Any],
        *,
        is_valid: Sequence[bool] | None = None,
        classes: Sequence[str] | None = None,
        task: TaskLike = DEFAULT_TASK,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images in a list (paths, PIL images, arrays or tensors), with a list of their labels.

        labels: one class name for each image; or, as task says, a list of names, a number or a list
        of numbers. is_valid: which of them are for validation; without it the split is random.
        classes: the names in the order of the model's outputs, by default sorted; of a regression
        the targets'. options: see `ImageSettings`.
        """
        settings = ImageSettings(**options)
        examples = from_marked(
            arguments.sequence("images", images, "images"),
            arguments.sequence("labels", labels, "labels, one for each image"),
            is_valid,
            valid_fraction,
            settings.seed,
            classes=classes,
            task=task,
            groups=settings.groups,
        )
        return cls(*examples, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_name(
        cls,
        files: str | Path | Sequence[str | Path],
        pattern: Pattern,
        *,
        is_valid: Callable[[Path], bool] | None = None,
        classes: Sequence[str] | None = None,
        task: TaskLike = DEFAULT_TASK,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images whose file names hold their labels.

        files: paths, or a folder, for all images in and below it. pattern: a regular expression
        whose one group is the label, searched in the file's name: `r"^(.+)_\\d+"` for
        "tabby_12.jpg"; or a function of the path that gives the label. is_valid: a function of the
        path; without it the split is random. classes: see `from_lists`. options: see
        `ImageSettings`.
        """
        settings = ImageSettings(**options)
        if is_valid is not None:
            arguments.function("is_valid", is_valid, "path -> whether it is for validation")
        items, labels = from_names(files, pattern)
        marks = None if is_valid is None else [is_valid(Path(item)) for item in items]
        folders = [Path(files)] if isinstance(files, str | Path) else []
        root = folders[0] if folders else None
        if folders:
            refuse_list(settings.groups)
        examples = from_marked(
            items,
            labels,
            marks,
            valid_fraction,
            settings.seed,
            classes=classes,
            task=task,
            groups=settings.groups,
            root=root,
        )
        return cls(*examples, folders=folders, root=root, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_dataset(
        cls,
        train: ImageDataset,
        valid: ImageDataset | None = None,
        *,
        classes: Sequence[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images and labels from data sets of torchvision, Hugging Face, or your own.

        train, valid: data sets of pairs (image, class index), without a transform; or of rows with
        an image and a class index or name. classes: names, by default the data set's own. Without
        `valid` the split is random. image_column, label_column: of rows, where their types don't
        tell. Labels are read at once, images when they are needed, but for a few. options: see
        `ImageSettings`.
        """
        settings = ImageSettings(**options)
        arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
        _check_dataset("train", train)
        if valid is not None:
            _check_dataset("valid", valid)
        if classes is not None:
            arguments.sequence("classes", classes, "class names")
        for name, column in (("image_column", image_column), ("label_column", label_column)):
            if column is not None:
                arguments.text(name, column)
        whole = datasets.from_dataset(train, classes, image_column, label_column)
        if valid is not None:
            refuse_list(settings.groups)
        whole = datasets.in_groups(whole, train, settings.groups)
        if valid is None:
            return cls(*whole.split(valid_fraction, settings.seed), **options)
        valid_classes = datasets.classes_of(valid) if classes is None else classes
        has_named_columns = isinstance(getattr(valid, "features", None), dict)
        if valid_classes is None and not has_named_columns:
            valid_classes = whole.classes
        valid_examples = datasets.from_dataset(valid, valid_classes, image_column, label_column)
        valid_examples = datasets.in_classes(valid_examples, whole.classes)
        return cls(whole, datasets.in_groups(valid_examples, valid, settings.groups), **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_shards(
        cls,
        train: str | Path | Sequence[str | Path],
        *,
        valid: str | Path | Sequence[str | Path] | None = None,
        classes: Sequence[str] | None = None,
        label_file: LabelFile | None = None,
        label_key: str = "label",
        task: TaskLike = DEFAULT_TASK,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images and labels in tar files, in the layout of WebDataset.

        train, valid: paths, or addresses that fsspec knows (`https://...`, `s3://...`), in which
        `{000..127}` stands for all of these numbers and `*` for any part of a name; without `valid`
        the split is random. The files of an example, such as `0001.jpg` and `0001.cls`, follow each
        other, and their names are the same up to the first dot.
        label_file: where all labels are: "cls" is such a file with a class index or name; "json"
        one with the label under label_key; "txt" one with a class name; "folder" the name of the
        image's folder in the tar file. None is the first of these that the first example has.
        classes: the names in the order of the indices, by default those in a file classes.txt
        beside the shards. options: see `ImageSettings`.

        Examples are in the order of their names, and read one by one, so that batches are those of
        the folder that was packed. Where they are is kept in the cache_folder, or beside local
        shards. Raises OSError for a shard that can't be read, such as FileNotFoundError, and
        ValueError for a damaged one.
        """
        settings = ImageSettings(**options)
        if are_parquet(train):
            raise ValueError(f"from_shards reads tar files; from_parquet reads {train!r:.200}")
        rule = LabelRule(label_file, label_key)
        layout = ShardLayout(rule, classes, resolve_task(task), settings.cache_folder)
        arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
        paths = shard_paths("train", train)
        valid_paths = [] if valid is None else shard_paths("valid", valid)
        root = Path(paths[0]).parent
        refuse_list(settings.groups)
        layout = layout.found_in(paths)
        whole = from_shards(paths, layout)
        if valid is None:
            whole = whole.in_groups(settings.groups)
            return cls(*whole.split(valid_fraction, settings.seed), root=root, **options)
        layout = replace(layout, classes=whole.classes)
        return cls(whole, from_shards(valid_paths, layout, of_training=True), root=root, **options)

    @classmethod
    @takes_options(ImageSettings)
    def from_parquet(
        cls,
        train: str | Path | Sequence[str | Path],
        *,
        valid: str | Path | Sequence[str | Path] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        classes: Sequence[str] | None = None,
        task: TaskLike = DEFAULT_TASK,
        valid_fraction: float = 0.2,
        **options: Unpack[ImageOptions],
    ) -> "ImageDataLoaders":
        """Images and labels in Parquet files that hold the images, as on Hugging Face's hub.

        train, valid: paths, or addresses that fsspec knows (`hf://...`, `s3://...`), in which
        `{000..127}` stands for all of these numbers and `*` for any part of a name; without `valid`
        the split is random. image_column: files of images, as a binary or in the field "bytes" of a
        struct; by default the only such column. label_column: class indices or names, lists of
        them, or numbers, as the task needs; by default the only column of class indices that
        Hugging Face's metadata name, "label", or the only other one. classes: the names in the
        order of the indices, by default those of the metadata. groups= may name a column.
        options: see `ImageSettings`.

        Examples are in the order of the rows; labels are read at once, an image with the row group
        that it is in. Whatever the order, each row group is read and decoded once, as long as
        decoded images are kept. Needs pyarrow: `pip install 'finetune-vision[parquet]'`. Raises
        OSError for a file that can't be read, such as FileNotFoundError, and ValueError for a
        damaged one, for a column that it does not have, and for rows without an image or a label.
        """
        settings = ImageSettings(**options)
        layout = ParquetLayout(
            image_column,
            label_column,
            classes,
            resolve_task(task),
            allow_missing=settings.on_error == "skip",
        )
        arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
        paths = shard_paths("train", train)
        valid_paths = [] if valid is None else shard_paths("valid", valid)
        folder = shared_folder([*paths, *valid_paths])
        root = Path(folder)
        if valid is not None:
            refuse_list(settings.groups)
        whole = from_parquet(paths, layout, settings.groups, folder=folder)
        if valid is None:
            return cls(*whole.split(valid_fraction, settings.seed), root=root, **options)
        valid_examples = from_parquet(
            valid_paths, layout, settings.groups, folder=folder, classes_of_training=whole.classes
        )
        return cls(whole, valid_examples, root=root, **options)

    # --- how images become batches

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


def _group_column(**options: Unpack[ImageOptions]) -> str | None:
    """The column of a table that `groups` names, if it names one."""
    groups = ImageSettings(**options).groups
    return groups if isinstance(groups, str) else None


def _wide_sample(items: Sequence[ImageSource], channels: int) -> Iterator[np.ndarray]:
    """The values of those with more than 8 bits among some images at equal distances.

    Where images are read together, only those that are read with the first one are looked at.
    """
    count = _ITEMS_SAMPLED if isinstance(items, DatasetImages) else _IMAGES_SAMPLED
    last = _count_read_with_first(items)
    step = max(1, -(-last // count))  # rounded up
    for number in range(0, last, step):
        try:
            values = wide_values(items[number], channels)
        except ImageError:  # an item of a data set that can't be read, which is said later
            continue
        if values is not None:
            yield values


def _count_read_with_first(items: Sequence[ImageSource]) -> int:
    """How many of the first images are read together; all of them where each is read by itself."""
    if isinstance(items, DatasetImages) or not isinstance(items[0], PackedImage):
        return len(items)
    part = items[0].read_with
    if part is None:
        return len(items)
    count = 1
    while count < len(items):
        item = items[count]
        if not isinstance(item, PackedImage) or item.read_with != part:
            break
        count += 1
    return count


def _check_dataset(name: str, dataset: Any) -> None:
    """Raises TypeError for what has no items with numbers, or is a single text."""
    if isinstance(dataset, Mapping):
        return  # refused where it is read, with the names of what is in it
    arguments.sequence(name, dataset, "pairs (image, class index), or a data set of them")
    if not len(dataset):
        raise ValueError(f"{name} is empty; it needs pairs (image, class index)")
