"""Labels that a data set stores beside its images, where they are surely those of its items.

What a data set gives by `[i]` is the truth about example i. Its attributes say the same only where
its `__getitem__` is known to read them, and where nothing changes the label afterwards.
"""

from typing import Any

from finetune.tasks.labels import python_values

# the class whose `__getitem__` is known, and the attribute that it takes the label from: of pairs
# (image, label) where the name ends with "samples"
_LABELS_OF = {
    "torchvision.datasets.cifar.CIFAR10": "targets",
    "torchvision.datasets.dtd.DTD": "_labels",
    "torchvision.datasets.fgvc_aircraft.FGVCAircraft": "_labels",
    "torchvision.datasets.flowers102.Flowers102": "_labels",
    "torchvision.datasets.folder.DatasetFolder": "samples",
    "torchvision.datasets.food101.Food101": "_labels",
    "torchvision.datasets.gtsrb.GTSRB": "_samples",
    "torchvision.datasets.imagenette.Imagenette": "_samples",
    "torchvision.datasets.mnist.MNIST": "targets",
    "torchvision.datasets.rendered_sst2.RenderedSST2": "_samples",
    "torchvision.datasets.semeion.SEMEION": "labels",
    "torchvision.datasets.stanford_cars.StanfordCars": "_samples",
    "torchvision.datasets.stl10.STL10": "labels",
    "torchvision.datasets.sun397.SUN397": "_labels",
    "torchvision.datasets.svhn.SVHN": "labels",
    "torchvision.datasets.usps.USPS": "targets",
}
_SUBSET = "torch.utils.data.dataset.Subset"


def stored_labels(dataset: Any) -> list[Any] | None:
    """The label of each item, without reading one; None where only the items can tell."""
    reader = _class_that_reads(dataset)
    if reader == _SUBSET:
        labels_of_whole = stored_labels(dataset.dataset)
        if labels_of_whole is None:
            return None
        return [labels_of_whole[number] for number in dataset.indices]
    if reader not in _LABELS_OF or changes_labels(dataset):
        return None
    name = _LABELS_OF[reader]
    values = getattr(dataset, name, None)
    if values is None or len(values) != len(dataset):
        return None
    if name.endswith("samples"):
        return [label for _, label in values]
    return list(python_values(values))


def file_names(dataset: Any) -> list[str] | None:
    """The path of each item's file, if that is known: what an item is called when others come."""
    if _class_that_reads(dataset) != "torchvision.datasets.folder.DatasetFolder":
        return None
    return [str(path).removeprefix(str(dataset.root)) for path, _ in dataset.samples]


def changes_labels(dataset: Any) -> bool:
    """Whether the data set was given a function that makes other labels of its own."""
    if getattr(dataset, "target_transform", None) is not None:
        return True
    # torchvision's `transforms` takes image and label; of the two functions it makes one itself
    joint = getattr(dataset, "transforms", None)
    return joint is not None and type(joint).__name__ != "StandardTransform"


def _class_that_reads(dataset: Any) -> str:
    """The full name of the class whose `__getitem__` the data set has, often an ancestor."""
    for ancestor in type(dataset).__mro__:
        if "__getitem__" in vars(ancestor):
            return f"{ancestor.__module__}.{ancestor.__qualname__}"
    return ""
