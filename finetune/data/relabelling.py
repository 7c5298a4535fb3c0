"""Labels of one data set, numbered by the classes of another."""

from dataclasses import replace

import torch

from finetune.data.examples import Examples
from finetune.tasks.task import Task
from finetune.wording import did_you_mean


def relabelled(examples: Examples, classes: tuple[str, ...], task: Task) -> Examples:
    """The same images; labels that are none (-1) stay so.

    Raises ValueError for a label that `classes` lacks, and for other tasks than one class a
    image where the classes differ.
    """
    if examples.task != task:
        raise ValueError(f"the images of the loader are for {examples.task!r}, not for {task!r}")
    if examples.classes == classes:
        return examples
    if task != "single_label":
        raise ValueError(
            f"the loader has the targets {', '.join(examples.classes)}, here they are "
            f"{', '.join(classes)}; pass classes= to make them alike"
        )
    labels = examples.labels
    unknown = {examples.classes[i] for i in set(labels.tolist()) if i >= 0} - set(classes)
    if unknown:
        name = min(unknown)
        raise ValueError(
            f"there is no class {name!r} to compare with; {did_you_mean(name, classes)}"
        )
    numbers = [classes.index(name) if name in classes else -1 for name in examples.classes]
    return replace(examples, labels=torch.tensor([*numbers, -1])[labels], classes=classes)
