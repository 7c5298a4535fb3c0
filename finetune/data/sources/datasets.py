"""Examples from data sets: torchvision's (image, label) pairs and Hugging Face's rows."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Subset

from finetune.data.examples import Examples
from finetune.data.images.dataset_images import DatasetImages, ImageDataset
from finetune.data.images.decode import ImageSource
from finetune.data.sources.lists import from_pairs
from finetune.tasks.labels import checked_classes, python_values
from finetune.wording import did_you_mean


def from_dataset(
    dataset: ImageDataset,
    classes: Sequence[str] | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Examples:
    """Examples from a data set of (image, label), labels being class indices, or of rows.

    Class names come from `classes`, or the data set's own, or else are the numbers. Labels
    come from `dataset.targets` and the like where it has them; otherwise every item is read once.
    Items are read by several threads, each once for all epochs, so without a transform. Of rows
    the columns of images and labels are known by their types, or else are "image" and "label".
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
        warnings.warn(
            f"the transform of this {type(whole).__name__} runs once an image, and what "
            "it gives is kept for all epochs; leave random ones to augment=",
            stacklevel=3,
        )
    targets = _targets(dataset)
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    names = classes_of(dataset) if classes is None else classes
    return _numbered(dataset, targets, names, DatasetImages(dataset, range(len(dataset))))


def classes_of(dataset: Any) -> Sequence[str] | None:
    """The names that it has, or that the data set has of which it is a part."""
    return getattr(whole_of(dataset), "classes", None)


def whole_of(dataset: Any) -> Any:
    """What a `Subset` is a part of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _targets(dataset: Any) -> Sequence[Any] | None:
    """The labels that a data set keeps beside its images, where they are what its items say."""
    if isinstance(dataset, Subset):
        whole = _targets(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    if (own := getattr(dataset, "targets", None)) is not None:
        return python_values(own)
    for name in ("labels", "_labels"):  # torchvision's SVHN, STL10; Food101, Flowers102, ...
        own = python_values(getattr(dataset, name, ()))
        if isinstance(own, Sequence) and len(own) == len(dataset) > 0:
            tried = (0, len(dataset) // 2, len(dataset) - 1)
            if all(_equal(own[i], dataset[i][1]) for i in tried):
                return own
    return None


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, int | str) and isinstance(other, int | str) and one == other


def _numbered(
    dataset: ImageDataset,
    targets: Any,
    names: Sequence[str] | None,
    images: Sequence[ImageSource],
) -> Examples:
    """Labels that are class indices."""
    try:
        given = torch.as_tensor(python_values(targets))
    except (TypeError, ValueError, RuntimeError):  # names, or several labels of different numbers
        given = None
    if given is None or (given.ndim > 1 and given.numel() != len(given)):
        raise ValueError(
            f"labels of a data set are class indices, got {python_values(targets)[0]!r}; pass "
            "images and names to from_lists, with task= for several labels or numbers"
        )
    given = given.flatten()
    labels = given.long()
    if not len(labels):
        raise ValueError("the data set is empty")
    if len(broken := given[given != labels]):
        raise ValueError(
            f"labels of a data set are class indices, got {float(broken[0])}; for a regression "
            "pass images and numbers to from_lists(..., task='regression')"
        )
    if len(labels) != len(dataset):
        raise ValueError(f"the data set has {len(dataset)} items but {len(labels)} targets")
    if names is None or not len(names):
        names = [str(i) for i in range(int(labels.max()) + 1)]
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, "
            f"but there are {len(names)} classes"
        )
    return Examples(
        images, labels, checked_classes([str(name) for name in names], refuse_case_twins=False)
    )


def _from_rows(
    dataset: Any,
    features: Mapping[str, Any],
    classes: Sequence[str] | None,
    image_column: str | None,
    label_column: str | None,
) -> Examples:
    """Rows are dicts; a column of labels is read as a whole, the images when asked for."""
    image = _column(features, image_column, "Image", "image")
    label = _column(features, label_column, "ClassLabel", "label")
    plain = dataset.with_format(None)  # torch's or numpy's would decode all columns
    labels = list(plain.select_columns([label])[label])
    images = plain.select_columns([image])
    images = DatasetImages(images, range(len(images)), image)
    if labels and all(isinstance(value, str) for value in labels):
        return from_pairs(images, labels, classes, of_training=False)
    if not all(isinstance(value, int) for value in labels):
        raise ValueError(f"column {label!r} holds no class indices or names, but {labels[:3]}")
    names = getattr(features[label], "names", None) if classes is None else classes
    return _numbered(images, labels, names, images)


def _column(features: Mapping[str, Any], given: str | None, kind: str, usual: str) -> str:
    """The column that was given, or else the only one of this type, or of the usual name."""
    if given is not None:
        if given not in features:
            hint = did_you_mean(given, features)
            raise ValueError(f"the data set has no column {given!r}; {hint}")
        return given
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) == 1:
        return found[0]
    if usual in (found or features):
        return usual
    raise ValueError(
        f"which column is the {usual}? pass {usual}_column=; there are {', '.join(features)}"
    )


def in_classes(examples: Examples, classes: tuple[str, ...]) -> Examples:
    """The same examples with labels that count in `classes`. Raises ValueError for one it lacks."""
    if examples.classes == classes:
        return examples
    names = [examples.classes[label] for label in examples.labels.tolist()]
    return from_pairs(examples.items, names, classes)
