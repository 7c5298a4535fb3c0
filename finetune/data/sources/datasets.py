"""Examples from data sets: torchvision's pairs (image, label) and Hugging Face's rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from finetune.data.examples import Examples
from finetune.data.images.dataset_images import DatasetImages, ImageDataset
from finetune.data.images.decode import ImageSource
from finetune.data.sources.lists import from_pairs
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
    Labels are read from `dataset.targets` and the like where the data set has them; otherwise
    every item is read once. Later several threads read the items, each once for all epochs, so a
    random transform of the data set would give only one view; a warning says so.
    Raises ValueError for labels that are no class indices, and for columns that aren't there.
    """
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"this is a mapping of {', '.join(map(repr, dataset))}; pass one data set of it for "
            "training and one for validation"
        )
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        return _from_rows(dataset, features, classes, image_column, label_column)
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
    targets = _stored_targets(dataset)
    if targets is None:
        targets = [dataset[number][1] for number in range(len(dataset))]
    if classes is None:
        classes = classes_of(dataset)
    images = DatasetImages(dataset, range(len(dataset)))
    return _from_class_indices(images, targets, classes)


def classes_of(dataset: Any) -> Sequence[str] | None:
    """The class names of a data set, or of the data set that it is a part of; None if unknown."""
    return getattr(whole_of(dataset), "classes", None)


def whole_of(dataset: Any) -> Any:
    """The data set that a `Subset` is a part of; any other data set itself."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _stored_targets(dataset: Any) -> Sequence[Any] | None:
    """The labels that a data set stores beside its images, by which no image has to be read.

    None where there are none, and where the labels of its items may be different ones.
    """
    if isinstance(dataset, Subset):
        targets_of_whole = _stored_targets(dataset.dataset)
        if targets_of_whole is None:
            return None
        return [targets_of_whole[number] for number in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    targets = getattr(dataset, "targets", None)
    if targets is not None:
        return python_values(targets)
    # torchvision's SVHN and STL10 have "labels", Food101, Flowers102 and others "_labels"
    for name in ("labels", "_labels"):
        labels = python_values(getattr(dataset, name, ()))
        if _are_labels_of(dataset, labels):
            return labels
    return None


def _are_labels_of(dataset: Any, labels: Any) -> bool:
    """Whether these look like the labels of the data set's items; three items are read for that.

    `targets` has a known meaning, but an attribute with another name may hold something else.
    """
    if not isinstance(labels, Sequence) or len(labels) != len(dataset) or len(labels) == 0:
        return False
    first, middle, last = 0, len(dataset) // 2, len(dataset) - 1
    return all(_is_same_label(labels[i], dataset[i][1]) for i in (first, middle, last))


def _is_same_label(stored: Any, label: Any) -> bool:
    # to compare arrays or tensors would not give a bool
    are_plain = isinstance(stored, int | str) and isinstance(label, int | str)
    return are_plain and stored == label


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
            f"labels go from {lowest} to {highest}, but there are {len(classes)} classes"
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
    if labels and all(isinstance(label, str) for label in labels):
        return from_pairs(images, labels, classes, of_training=False)
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(
            f"column {label_column!r} holds no class indices or names, but {labels[:3]}"
        )
    if classes is None:
        classes = getattr(features[label_column], "names", None)
    return _from_class_indices(images, labels, classes)


def _column(features: Mapping[str, Any], name: str | None, type_name: str, usual: str) -> str:
    """The column of images or of labels.

    It is the column called `name`, unless that is None; or else the only column of the type, or
    else the one with the usual name. Raises ValueError where there is no such column.
    """
    if name is not None:
        if name not in features:
            raise ValueError(f"the data set has no column {name!r}; {did_you_mean(name, features)}")
        return name
    columns_of_type = []
    for column, feature in features.items():
        if type(feature).__name__ == type_name:
            columns_of_type.append(column)
    if len(columns_of_type) == 1:
        return columns_of_type[0]
    candidates = columns_of_type or list(features)
    if usual in candidates:
        return usual
    raise ValueError(
        f"which column is the {usual}? pass {usual}_column=; there are {', '.join(features)}"
    )


def in_classes(examples: Examples, classes: tuple[str, ...]) -> Examples:
    """The same examples, with labels that are indices into `classes`.

    Raises ValueError for an example whose class is not among them.
    """
    if examples.classes == classes:
        return examples
    names = [examples.classes[label] for label in examples.labels.tolist()]
    return from_pairs(examples.items, names, classes)
