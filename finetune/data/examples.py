"""Examples: images, their targets, and what the targets mean."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from finetune import arguments
from finetune.data.groups import Groups, check_several, check_shares, groups_of
from finetune.data.images.dataset_images import join_items, select_items
from finetune.data.images.opening import ImageSource
from finetune.data.splitting import fold_numbers, held_out, identities_of
from finetune.tasks import DEFAULT_TASK, Task
from finetune.wording import did_you_mean

NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their targets.

    items: paths, or images in memory. labels: [N, ...], the targets of the task, in terms of
    `classes`. numbers: [N] int64, where each example was in what the user gave, before it was
    split; None: where it is here. groups: the name of each one's group, see `groups`; None where
    there are none.
    """

    items: Sequence[ImageSource]
    labels: Tensor
    classes: tuple[str, ...]
    task: Task = DEFAULT_TASK
    numbers: Tensor | None = None
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Tensor) -> "Examples":
        """The examples at these positions. indices: [M] int64."""
        positions = indices.tolist()
        items = select_items(self.items, positions)
        numbers = torch.arange(len(self)) if self.numbers is None else self.numbers
        groups = self.groups
        if groups is not None:
            groups = tuple(groups[position] for position in positions)
        return replace(
            self,
            items=items,
            labels=self.labels[indices],
            numbers=numbers[indices],
            groups=groups,
        )

    def in_groups(self, groups: Groups | None, root: str | Path | None = None) -> "Examples":
        """The same examples, with the groups that they are in; see `groups_of`."""
        if groups is None:
            return self
        return replace(self, groups=groups_of(self.items, groups, root))

    def counts(self) -> list[int]:
        """How many images each class has; empty for a regression."""
        return self.task.class_counts(self.labels, self.classes)

    def texts(self) -> list[str]:
        """Each target in words."""
        return self.task.describe(self.labels, self.classes)

    def split(
        self, valid_fraction: float, seed: int, *, root: str | Path | None = None
    ) -> tuple["Examples", "Examples"]:
        """Training and validation examples, drawn at random; the same for the same seed.

        valid_fraction: share of each class that is held out, in (0, 1); of a regression, of all
        images. Every class keeps at least one training example, and has one for validation if it
        has two. root: folder that the paths of the images are below; None takes the one that all of
        them are in.

        Which side an example is on depends on its path below `root` (or its row, where it is no
        file), not on the other examples: those that are added later leave it where it is, and rows
        of one file are on one side. The share is therefore met approximately, see `splitting`.
        Where there are groups, the side depends on the name of the group; a warning says which
        shares are far off. Raises ValueError for groups that can't be split.
        """
        arguments.real_number("valid_fraction", valid_fraction, above=0, below=1)
        identities: Sequence[str]
        if self.groups is None:
            identities = identities_of(self.items, root)
        else:
            check_several(self.groups)
            identities = self.groups
        strata = self.task.stratify(self.labels, self.classes)
        is_held_out = held_out(identities, strata, valid_fraction, seed)
        train = self.select(torch.nonzero(~is_held_out).flatten())
        valid = self.select(torch.nonzero(is_held_out).flatten())
        if self.groups is not None:
            check_shares(
                self.counts(), valid.counts(), self.classes, len(self), len(valid), valid_fraction
            )
        return train, valid

    def fold_numbers(self, count: int, seed: int) -> Tensor:
        """The fold, of `count`, in which each example is for validation, int64 [N].

        Every class is divided evenly over the folds, and no group, see `splitting.fold_numbers`.
        """
        identities: Sequence[str]
        identities = identities_of(self.items) if self.groups is None else self.groups
        strata = self.task.stratify(self.labels, self.classes)
        return fold_numbers(identities, strata, count, seed)

    def in_classes(self, classes: tuple[str, ...], task: Task) -> "Examples":
        """The same images with targets in terms of `classes`; what has no class stays without.

        Raises ValueError for another task, for a class that `classes` lacks, and where the targets
        of a task without class numbers have other names.
        """
        if self.task != task:
            raise ValueError(
                f"the images of the loader are for {self.task.name!r}, not for {task.name!r}"
            )
        if self.classes == classes:
            return self
        if not task.exclusive:
            raise ValueError(
                f"the loader has the targets {', '.join(self.classes)}, here they are "
                f"{', '.join(classes)}; pass classes= to make them alike"
            )
        numbers = set(self.labels.tolist()) - {NO_CLASS}
        present = {self.classes[number] for number in numbers}
        unknown = sorted(present - set(classes))
        if unknown:
            name = unknown[0]
            raise ValueError(
                f"there is no class {name!r} to compare with; {did_you_mean(name, classes)}"
            )
        number_of = {name: number for number, name in enumerate(classes)}
        new_numbers = [number_of.get(name, NO_CLASS) for name in self.classes]
        # the last entry is for examples without a class, whose number is -1
        translation = torch.tensor([*new_numbers, NO_CLASS])
        return replace(self, labels=translation[self.labels], classes=classes)


def join(train: Examples, valid: Examples) -> tuple[Examples, Tensor]:
    """All examples of a split, in the order in which they were before it.

    Where that is not known, those for training come first. Also returns where each of them is among
    those for training and, behind them, those for validation: int64 [N].
    """
    count = len(train) + len(valid)
    numbers = torch.arange(count)
    if train.numbers is not None and valid.numbers is not None:
        numbers_before = torch.cat([train.numbers, valid.numbers])
        if len(set(numbers_before.tolist())) == count:  # else they are of two data sets
            numbers = numbers_before
    groups = None
    if train.groups is not None and valid.groups is not None:
        groups = (*train.groups, *valid.groups)
    together = replace(
        train,
        items=join_items(train.items, valid.items),
        labels=torch.cat([train.labels, valid.labels]),
        numbers=numbers,
        groups=groups,
    )
    order = numbers.argsort()
    return together.select(order), order
