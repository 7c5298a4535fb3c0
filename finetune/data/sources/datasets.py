"""Examples from data sets: torchvision's pairs (image, label) and Hugging Face's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from finetune.data.examples import Examples
from finetune.data.groups import Groups
from finetune.data.images.dataset_images import DatasetImages, ImageDataset, read_one
from finetune.data.images.opening import ImageSource
from finetune.data.sources.lists import from_pairs
from finetune.data.sources.stored_labels import changes_labels, file_names, stored_labels
from finetune.tasks import DEFAULT_TASK, Task
from finetune.tasks.labels import checked_classes, python_values
from finetune.wording import did_you_mean, warn


def from_dataset(
    dataset: ImageDataset,
    classes: Sequence[str] | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Examples:
    """Examples from a data set of pairs (image, class index), or of rows with named columns.

    classes: the names of the classes; None takes those that the data set has, or else the numbers.
    image_column, label_column: names of columns of rows; None finds the columns by their types, or
    else takes "image" and "label".
    What `dataset[i]` gives is the truth. The labels are taken from where the data set stores them
    only if they are surely the same, see `stored_labels`; otherwise every item is read once. Later
    the items are read when they are needed, by one thread at a time, each once for all epochs, so a
    random transform of the data set would give only one view; a warning says so.
    Raises ValueError for labels that are no class indices, and for columns that aren't there.
    """
    _check_has_items(dataset)
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and not _has_transform(dataset):
        return _from_rows(dataset, features, classes, image_column, label_column)
    targets = stored_labels(dataset)
    if targets is None:
        first = read_one(dataset, 0)
        if isinstance(first, Mapping):
            return _from_dicts(dataset, first, classes, image_column, label_column)
    if image_column is not None or label_column is not None:
        raise ValueError(
            "image_column= and label_column= are for data sets with named columns; "
            f"{type(dataset).__name__} has none"
        )
    whole = whole_of(dataset)
    if getattr(whole, "transform", None) is not None:
        warn(
            f"the transform of this {type(whole).__name__} runs once an image, and what "
            "it gives is kept for all epochs; leave random ones to augment="
        )
    if targets is None:
        targets = _read_labels(dataset, 1, first)
    if classes is None:
        classes = classes_of(dataset)
    return _from_class_indices(_images_of(dataset), targets, classes)


def _check_has_items(dataset: Any) -> None:
    """Raises TypeError or ValueError unless the data set has items by number, one at least."""
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"this is a mapping of {', '.join(map(repr, dataset))}; pass one data set of it for "
            "training and one for validation"
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a data set needs a length and items by number, which {type(dataset).__name__} lacks; "
            "load it whole (streaming=False), or list what it gives: list(dataset)"
        )
    if len(dataset) == 0:
        raise ValueError("the data set is empty")


def _read_labels(dataset: Any, column: int | str, first: Any) -> list[Any]:
    """The label of every item, read one by one. first: the first item."""
    labels = [first[column]]
    for number in range(1, len(dataset)):
        labels.append(read_one(dataset, number)[column])
    return labels


def _images_of(dataset: Any) -> DatasetImages:
    """The images of pairs. Those of a part are called as they are called in the whole."""
    names: list[str | int] = []
    whole_names: Sequence[str | int] | None = file_names(whole_of(dataset))
    numbers = _numbers_in_whole(dataset)
    if whole_names is None:
        names.extend(numbers)
    else:
        names.extend(whole_names[number] for number in numbers)
    return DatasetImages(dataset, range(len(dataset)), names=names)


def _numbers_in_whole(dataset: Any) -> Sequence[int]:
    """Where the items of a part are in the data set that it is a part of."""
    if not isinstance(dataset, Subset):
        return range(len(dataset))
    numbers = _numbers_in_whole(dataset.dataset)
    return [numbers[number] for number in dataset.indices]


def _has_transform(dataset: Any) -> bool:
    """Whether a function makes the rows of a Hugging Face data set when they are read."""
    row_format = getattr(dataset, "format", None)
    return isinstance(row_format, Mapping) and row_format.get("type") == "custom"


def classes_of(dataset: Any) -> Sequence[str] | None:
    """The class names of a data set, or of the data set that it is a part of; None if unknown.

    Where a function changes the labels, the names may no longer be theirs.
    """
    whole = whole_of(dataset)
    names: Sequence[str] | None = getattr(whole, "classes", None)
    if names is not None and changes_labels(whole):
        warn(
            f"the target_transform of this {type(whole).__name__} makes other labels, so that its "
            "classes are called by their numbers; pass classes= with the names of what it gives"
        )
        return None
    return names


def whole_of(dataset: Any) -> Any:
    """The data set that a `Subset` is a part of; any other data set itself."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _from_class_indices(
    images: Sequence[ImageSource], targets: Any, classes: Sequence[str] | None
) -> Examples:
    """Examples from images and their class indices.

    classes: the names by index; None or none at all names the classes by their numbers. Raises
    ValueError for labels that are no class indices or have no name.
    """
    labels = _class_indices(targets)
    if len(labels) != len(images):
        raise ValueError(f"the data set has {len(images)} items but {len(labels)} targets")
    lowest, highest = int(labels.min()), int(labels.max())
    if classes is None or len(classes) == 0:
        classes = [str(number) for number in range(highest + 1)]
    if lowest < 0 or highest >= len(classes):
        raise ValueError(
            f"labels go from {lowest} to {highest}, but there are {len(classes)} classes; pass "
            "classes= with a name for each label, from 0 on"
        )
    names = [str(name) for name in classes]
    # the data set numbers its classes, so two names in different case are no typing error
    return Examples(images, labels, checked_classes(names, refuse_case_twins=False))


def _class_indices(targets: Any) -> Tensor:
    """Targets as class indices, int64 [N]. Raises ValueError for what is no class index."""
    values = python_values(targets)
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # names, or several labels of different numbers
        numbers = None
    if numbers is None or (numbers.ndim > 1 and numbers.numel() != len(numbers)):
        raise ValueError(
            f"labels of a data set are class indices, got {values[0]!r}; pass "
            "images and names to from_lists, with task= for several labels or numbers"
        )
    numbers = numbers.flatten()
    if len(numbers) == 0:
        raise ValueError("the data set is empty")
    labels = numbers.long()
    fractions = numbers[numbers != labels]
    if len(fractions):
        raise ValueError(
            f"labels of a data set are class indices, got {float(fractions[0])}; for a regression "
            "pass images and numbers to from_lists(..., task='regression')"
        )
    return labels


def _from_rows(
    dataset: Any,
    features: Mapping[str, Any],
    classes: Sequence[str] | None,
    image_column: str | None,
    label_column: str | None,
) -> Examples:
    """Examples from a data set of rows, which are dicts.

    features: the columns' types by name. The column of labels is read as a whole, an image only
    when it is asked for.
    """
    image_column = _column(features, image_column, "Image", "image")
    label_column = _column(features, label_column, "ClassLabel", "label")
    rows = dataset.with_format(None)  # torch's or numpy's format would decode all columns
    labels = list(rows.select_columns([label_column])[label_column])
    image_rows = rows.select_columns([image_column])
    images = DatasetImages(image_rows, range(len(image_rows)), image_column)
    if classes is None:
        classes = getattr(features[label_column], "names", None)
    return from_column(images, label_column, labels, classes)


def _from_dicts(
    dataset: Any,
    first: Mapping[str, Any],
    classes: Sequence[str] | None,
    image_column: str | None,
    label_column: str | None,
) -> Examples:
    """Examples from a data set whose items are dicts, made by its own code or by a transform.

    first: the first item. All items are read once for their labels.
    """
    features = getattr(dataset, "features", None) or {}
    types = {name: features.get(name) for name in first}
    image_column = _column(types, image_column, "Image", "image")
    label_column = _column(types, label_column, "ClassLabel", "label")
    labels = []
    for label in _read_labels(dataset, label_column, first):
        # a transform that makes tensors makes them of the labels, too
        is_scalar = getattr(label, "ndim", None) == 0
        labels.append(label.item() if is_scalar else label)
    images = DatasetImages(dataset, range(len(dataset)), image_column)
    if classes is None:
        classes = getattr(types[label_column], "names", None)
    return from_column(images, label_column, labels, classes)


def from_column(
    images: Sequence[ImageSource],
    column: str,
    labels: list[Any],
    classes: Sequence[str] | None,
    task: Task = DEFAULT_TASK,
    *,
    of_training: bool = False,
) -> Examples:
    """Examples from images and a column of class indices or names.

    classes: names by index, or, for a column of names, in the order of the model's outputs.
    task: one of one class an image. of_training: see `from_pairs`.
    """
    if all(isinstance(label, str) for label in labels):
        return from_pairs(images, labels, classes, task, of_training=of_training)
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"column {column!r} holds no class indices or names, but {labels[:3]}")
    return replace(_from_class_indices(images, labels, classes), task=task)


def _column(features: Mapping[str, Any], name: str | None, type_name: str, usual: str) -> str:
    types = {column: type(feature).__name__ for column, feature in features.items()}
    return find_column(types, name, type_name, usual, "the data set")


def find_column(
    types: Mapping[str, str], name: str | None, type_name: str, usual: str, where: str
) -> str:
    """The column of images or of labels.

    It is the column called `name`, unless that is None; or else the only column of the type, or
    else the one with the usual name. types: the names of the columns' types. where: what has the
    columns. Raises ValueError where there is no such column.
    """
    if name is not None:
        if name not in types:
            raise ValueError(f"{where} has no column {name!r}; {did_you_mean(name, types)}")
        return name
    columns_of_type = []
    for column, type_of_column in types.items():
        if type_of_column == type_name:
            columns_of_type.append(column)
    if len(columns_of_type) == 1:
        return columns_of_type[0]
    candidates = columns_of_type or list(types)
    if usual in candidates:
        return usual
    raise ValueError(
        f"which column is the {usual}? pass {usual}_column=; there are {', '.join(types)}"
    )


def in_groups(examples: Examples, dataset: Any, groups: Groups | None) -> Examples:
    """The examples of a data set with their groups; a text is the column of rows that has them."""
    features = getattr(dataset, "features", None)
    if not isinstance(groups, str) or not isinstance(features, Mapping):
        return examples.in_groups(groups)
    if groups not in features:
        raise ValueError(
            f"groups={groups!r} is no column of the data set; {did_you_mean(groups, features)}"
        )
    rows = dataset.with_format(None)
    return examples.in_groups(list(rows.select_columns([groups])[groups]))


def in_classes(examples: Examples, classes: tuple[str, ...]) -> Examples:
    """The same examples, with labels that are indices into `classes`.

    Raises ValueError for an example whose class is not among them.
    """
    if examples.classes == classes:
        return examples
    names = [examples.classes[label] for label in examples.labels.tolist()]
    return from_pairs(examples.items, names, classes, examples.task)
