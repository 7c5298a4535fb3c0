"""ImageDataLoaders; long because each of its constructors spells out the options of all."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.data import examples as sources
from finetune.data.images.augment import STANDARD as STANDARD
from finetune.data.images.augment import Augment
from finetune.data.images.dataset_images import ImageDataset
from finetune.data.images.decode import ImageSource, Resize
from finetune.data.picture_loaders import ImageLoaders
from finetune.data.picture_loaders import OnError as OnError
from finetune.data.sources import datasets
from finetune.data.sources.names import Pattern, from_names
from finetune.data.sources.tables import Layout, read_csv, read_table
from finetune.tasks.task import Task, check_task


class ImageDataLoaders(ImageLoaders):
    """Training and validation images; make one with `from_folder` and its sisters.

    All of them take: image_size, the side of the model's input in pixels (None: what the backbone
    was trained with); batch_size; seed, of the split, the order, the augmentation and the new
    head; augment, see below; resize, how a rectangle becomes a square; on_error, "raise" at an
    unreadable file or "skip" it (counted, listed in `skipped`, never replaced by another); workers,
    the decoding threads; cache_folder, cache_gigabytes.

    augment: "none", "light", "standard" or "strong", an `Augmentation`, or any function of one
    image, such as torchvision's v2 transforms: a uint8 tensor [3, S, S] in, a tensor [3, h, w]
    out, uint8 or float in [0, 1]. It is called for each image with the global generators of
    torch, numpy and Python seeded by (seed, epoch, the image's number), so that epochs repeat;
    it may keep no other state. Its result is resized to image_size and then normalised.

    task: "single_label", one class name an image; "multi_label", any number of them, targets
    float32 [B, C]; "regression", one or more numbers, targets float32 [B, K], whose names `classes`
    are. A random split holds out a share of each class, or else of all images.

    Images are decoded once and kept, for as long as the loaders live, in memory (a quarter of it
    for the whole process) or else in a temporary file. With a cache_folder those that are files
    are kept there between runs, decoded again if their file changes. It holds up to
    cache_gigabytes (1e9 bytes each): image files * (image_size / 0.875) ** 2 * 3 bytes for a
    data set, whatever its split; the least recently used data sets and sizes make room for a new
    one. You may delete the folder when no run uses it. A folder that can't be written or a full
    disk is an OSError; images that fit nowhere are decoded in every epoch, with a warning.
    """

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
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Images in `<folder>/<class>/`, split at random, or in `<folder>/<train>/<class>/` and
        `<folder>/<valid>/<class>/`.

        valid_fraction: share of each class held out, where no split is given. The other options are
        the class's. Raises FileNotFoundError or ValueError for a folder that makes no classifier.
        """
        root = Path(folder)
        if (train is None) != (valid is None):
            raise ValueError(f"give both train= and valid=, or neither; got {train=}, {valid=}")
        if train is None or valid is None:
            folders = [root]
            parts = sources.from_folder(root).split(valid_fraction, seed)
        else:
            folders = [root / train, root / valid]
            first = sources.from_folder(root / train)
            parts = (first, sources.from_folder(root / valid, first.classes))
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes, folders=folders,
        )  # fmt: skip

    @classmethod
    def from_csv(
        cls,
        file: str | Path,
        folder: str | Path | None = None,
        *,
        image_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        valid_column: str | None = None,
        task: Task = "single_label",
        label_delimiter: str = " ",
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Images and labels from a CSV file with a header; by default its first two columns.

        folder: what the paths are relative to, by default the CSV file's folder. valid_column: a
        column that marks validation rows with 1, true, yes or valid; without it, a random split.
        label_delimiter: what is between the labels of an image, if task is "multi_label"; none is
        an empty cell. label_column: of a regression, one column or a list of them.
        """
        path = Path(file)
        base = path.parent if folder is None else Path(folder)
        layout = Layout(image_column, label_column, valid_column, check_task(task), label_delimiter)
        rows = read_csv(path, base, layout)
        parts = sources.from_marked(
            rows.items, rows.labels, rows.is_valid, valid_fraction, seed,
            classes=rows.names, task=task,
        )  # fmt: skip
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )  # fmt: skip

    @classmethod
    def from_table(
        cls,
        table: Any,
        folder: str | Path | None = None,
        *,
        image_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        valid_column: str | None = None,
        task: Task = "single_label",
        label_delimiter: str = " ",
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Images and labels from a data frame (pandas, polars, pyarrow, or whatever speaks their
        protocols), or from a mapping of names to lists; the columns are as in `from_csv`.

        folder: what the paths are relative to, by default the present folder. Instead of paths
        there may be images, and instead of labels with a delimiter lists of them.
        """
        layout = Layout(image_column, label_column, valid_column, check_task(task), label_delimiter)
        rows = read_table(table, None if folder is None else Path(folder), layout)
        parts = sources.from_marked(
            rows.items, rows.labels, rows.is_valid, valid_fraction, seed,
            classes=rows.names, task=task,
        )  # fmt: skip
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )  # fmt: skip

    @classmethod
    def from_lists(
        cls,
        images: Sequence[ImageSource],
        labels: Sequence[Any],
        *,
        is_valid: Sequence[bool] | None = None,
        classes: Sequence[str] | None = None,
        task: Task = "single_label",
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Images (paths, PIL images, arrays or tensors) with one class name each; or, as task
        says, a list of names each, or a number or a list of numbers.

        is_valid: which of them are for validation; without it the split is random. classes: the
        names in the order of the model's outputs, by default sorted; of a regression the targets'.
        """
        parts = sources.from_marked(
            images, labels, is_valid, valid_fraction, seed, classes=classes, task=check_task(task)
        )
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )  # fmt: skip

    @classmethod
    def from_name(
        cls,
        files: str | Path | Sequence[str | Path],
        pattern: Pattern,
        *,
        is_valid: Callable[[Path], bool] | None = None,
        classes: Sequence[str] | None = None,
        task: Task = "single_label",
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Images with labels in their names: files, or all in and below a folder.

        pattern: a regular expression whose one group is the label, searched in the file's name:
        `r"^(.+)_\\d+"` for "tabby_12.jpg"; or a function of the path that gives the label.
        is_valid: a function of the path; without it the split is random. classes: see `from_lists`.
        """
        items, labels = from_names(files, pattern)
        marks = None if is_valid is None else [is_valid(Path(item)) for item in items]
        parts = sources.from_marked(
            items, labels, marks, valid_fraction, seed, classes=classes, task=check_task(task)
        )
        folders = [Path(files)] if isinstance(files, str | Path) else []
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes, folders=folders,
        )  # fmt: skip

    @classmethod
    def from_dataset(
        cls,
        train: ImageDataset,
        valid: ImageDataset | None = None,
        *,
        classes: Sequence[str] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        valid_fraction: float = 0.2,
        image_size: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        augment: Augment = "standard",
        resize: Resize = "crop",
        on_error: OnError = "raise",
        workers: int | None = None,
        cache_folder: str | Path | None = None,
        cache_gigabytes: float = 20.0,
    ) -> "ImageDataLoaders":
        """Data sets of (image, class index), as torchvision's are, without a transform; or of rows
        with an image and a class index or name, as those of Hugging Face.

        classes: names, by default the data set's own. Without `valid` the split is random.
        image_column, label_column: of rows, where their types don't tell. Images are read when
        they are needed, labels at once.
        """
        columns = image_column, label_column
        examples = datasets.from_dataset(train, classes, *columns)
        if valid is None:
            parts = examples.split(valid_fraction, seed)
        else:
            own = datasets.classes_of(valid) if classes is None else classes
            has_names = isinstance(getattr(valid, "features", None), dict)
            found = datasets.from_dataset(
                valid, examples.classes if own is None and not has_names else own, *columns
            )
            parts = (examples, datasets.in_classes(found, examples.classes))
        return cls(
            *parts, image_size=image_size, batch_size=batch_size, seed=seed, augment=augment,
            resize=resize, on_error=on_error, workers=workers, cache_folder=cache_folder,
            cache_gigabytes=cache_gigabytes,
        )  # fmt: skip
