"""ImageDataLoaders: training and validation images, from wherever they are, as batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from finetune import arguments
from finetune.data.groups import refuse_list
from finetune.data.image_batches import ImageBatches
from finetune.data.image_options import ImageOptions, ImageSettings
from finetune.data.images.dataset_images import ImageDataset
from finetune.data.images.opening import ImageSource
from finetune.data.sources import datasets
from finetune.data.sources.folders import from_folder
from finetune.data.sources.lists import from_marked
from finetune.data.sources.names import Pattern, from_names
from finetune.data.sources.parquet import ParquetLayout, are_parquet, from_parquet
from finetune.data.sources.presence import check_present
from finetune.data.sources.shard_index import LabelFile, LabelRule
from finetune.data.sources.shards import ShardLayout, from_shards, shard_paths
from finetune.data.sources.tables import Layout, Rows, read_csv, read_table
from finetune.dictionary import ImageDataLoadersType, answers_other_words
from finetune.files.names import shared_folder
from finetune.options import takes_options
from finetune.tasks import DEFAULT_TASK, TaskLike, resolve_task


@answers_other_words("ImageDataLoaders")
class ImageDataLoaders(ImageBatches, metaclass=ImageDataLoadersType):
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
        layout = _layout(image_column, label_column, valid_column, task, label_delimiter, **options)
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
        layout = _layout(image_column, label_column, valid_column, task, label_delimiter, **options)
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


def _layout(
    image_column: str | None,
    label_column: str | Sequence[str] | None,
    valid_column: str | None,
    task: TaskLike,
    label_delimiter: str,
    **options: Unpack[ImageOptions],
) -> Layout:
    """Which columns of a table mean what; that of the groups is among the options."""
    groups = ImageSettings(**options).groups
    group_column = groups if isinstance(groups, str) else None
    return Layout(
        image_column, label_column, valid_column, resolve_task(task), label_delimiter, group_column
    )


def _check_dataset(name: str, dataset: Any) -> None:
    """Raises TypeError for what has no items with numbers, or is a single text."""
    if isinstance(dataset, Mapping):
        return  # refused where it is read, with the names of what is in it
    arguments.sequence(name, dataset, "pairs (image, class index), or a data set of them")
    if not len(dataset):
        raise ValueError(f"{name} is empty; it needs pairs (image, class index)")
