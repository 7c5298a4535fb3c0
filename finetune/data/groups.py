"""Groups of images that belong together, such as those of one patient, video or product.

Images of one group are alike in more than their class. If some are for training and others for
validation, a model can know the patient, and validation flatters it.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from finetune import arguments
from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.opening import ImageSource
from finetune.data.images.packed import PackedImage
from finetune.data.patterns import finder
from finetune.data.splitting import LARGEST_SHARE, LEAST_SHARE, identities_of
from finetune.tasks.labels import is_empty, python_values
from finetune.wording import counted, warn

Groups: TypeAlias = str | re.Pattern[str] | Callable[[Path], Any] | Sequence[Any]

_SHARE_TOLERANCE = 0.05
"""So far from `valid_fraction` may the share of all images be without a word."""
_NAMED = 5


def checked_groups(groups: Any) -> None:
    """Raises TypeError or ValueError for a value that says no groups, see `ImageSettings`."""
    if groups is None or callable(groups) or isinstance(groups, re.Pattern):
        return
    if isinstance(groups, str):
        arguments.text("groups", groups)
        return
    what = "groups, one for each image; or a column, a regular expression, a function of the path"
    arguments.sequence("groups", groups, what)


def refuse_list(groups: Groups | None) -> None:
    """Raises ValueError for a list of groups beside images whose order nobody knows."""
    if groups is None or callable(groups) or isinstance(groups, str | re.Pattern):
        return
    raise ValueError(
        "groups= as a list goes with images in a list or a table, in the same order; here pass a "
        "function of the path, or a regular expression that finds the group in the path"
    )


def groups_of(
    items: Sequence[ImageSource], groups: Groups, root: str | Path | None = None
) -> tuple[str, ...]:
    """The name of each image's group.

    groups: the groups themselves, one for each image; or a function of the image's path that
    returns the group; or a regular expression whose one group in brackets finds it in the path
    below `root`. root: see `identities_of`. Raises ValueError for a list of another length, for an
    image without a group, and for images without paths.

    >>> groups_of(["p/a/ann_1.jpg", "p/b/bob_1.jpg"], r"/([^_]+)_", "p")
    ('ann', 'bob')
    """
    values: Sequence[Any]
    if isinstance(groups, str | re.Pattern):
        _paths_of(items)  # raises for images that have none
        find = finder("groups", groups, "group")
        values = [find(identity) for identity in identities_of(items, root)]
    elif callable(groups):
        values = [groups(path) for path in _paths_of(items)]
    else:
        values = python_values(groups)
        if len(values) != len(items):
            raise ValueError(
                f"got {len(items)} images but {len(values)} groups; each image needs one, in its "
                "order"
            )
    if all(isinstance(value, Path) for value in values):
        # below the root, so that data that are copied elsewhere are split as before
        return tuple(identities_of(list(values), root))
    return tuple(group_name(value, f"image {number}") for number, value in enumerate(values))


def group_name(value: Any, where: str) -> str:
    """The name of a group. where: the image's place, with which errors begin.

    Raises ValueError for a missing one, and TypeError for an object that has no name.
    """
    if is_empty(value):
        raise ValueError(
            f"{where} has no group, but {value!r}; give it one, of its own where it belongs to none"
        )
    text = str(value)
    if text == object.__repr__(value):
        # it is the object's place in memory, another one in the next run
        raise TypeError(f"{where}: groups must be texts or numbers, got {arguments.shown(value)}")
    return unicodedata.normalize("NFC", text.strip())


def _paths_of(items: Sequence[ImageSource]) -> list[Path]:
    """The paths of the images. Raises ValueError for an image that has none."""
    names: Sequence[Any] = items
    if isinstance(items, DatasetImages):
        names = items.identities
    paths = []
    for name in names:
        if isinstance(name, PackedImage):
            name = name.name
        if not isinstance(name, str | Path):
            raise ValueError(
                "groups= finds the group in the path of an image, and these images are no files; "
                "pass a list with the group of each image"
            )
        paths.append(Path(name))
    return paths


def check_several(groups: Sequence[str]) -> None:
    """Raises ValueError where all images are of one group, which can't be split."""
    if len(set(groups)) == 1:
        raise ValueError(
            f"groups= puts all {counted(len(groups), 'image')} into one group, {groups[0]!r}; to "
            "hold some out, at least two groups are needed"
        )


def check_apart(train_groups: Sequence[str], valid_groups: Sequence[str]) -> None:
    """Raises ValueError for groups that are on both sides of a split that was given."""
    crossing = sorted(set(train_groups) & set(valid_groups))
    if crossing:
        names = ", ".join(map(repr, crossing[:_NAMED]))
        if len(crossing) > _NAMED:
            names += f" and {len(crossing) - _NAMED} more"
        raise ValueError(
            f"{counted(len(crossing), 'group')} of groups= have images in training and in "
            f"validation: {names}; validation would flatter the model. Move them to one side, or "
            "leave the split to finetune"
        )


def check_shares(
    counts: Sequence[int],
    valid_counts: Sequence[int],
    classes: Sequence[str],
    total: int,
    valid_total: int,
    valid_fraction: float,
) -> None:
    """Says how far a split by groups is from the share that it should hold out.

    counts, valid_counts: images of each class, all and those held out; empty for a regression.
    total, valid_total: all images. Raises ValueError where none is held out.
    """
    if not valid_total:
        raise ValueError(
            "groups= leaves no image for validation: every class has all of its images in one "
            "group; a group is what may occur in training or in validation, such as a patient"
        )
    words = []
    share = valid_total / total
    if abs(share - valid_fraction) > _SHARE_TOLERANCE:
        words.append(f"{share:.0%} of all images")
    for name, count, valid_count in zip(classes, counts, valid_counts, strict=False):
        if _is_off(count, valid_count, valid_fraction):
            words.append(f"{valid_count} of {count} of {name!r}")
    if words:
        listed = ", ".join(words[:_NAMED])
        if len(words) > _NAMED:
            listed += f" and of {len(words) - _NAMED} more classes"
        warn(
            f"groups= are not divided, so that validation has {listed}, where it should have "
            f"{valid_fraction:.0%}"
        )


def _is_off(count: int, valid_count: int, valid_fraction: float) -> bool:
    """Whether a class is further from its share than a split without groups lets it be."""
    share = valid_fraction * count
    fewest = min(LEAST_SHARE * share, share - 1)
    most = max(LARGEST_SHARE * share, share + 1)
    has_one_side = count > 1 and valid_count in (0, count)
    return has_one_side or not fewest <= valid_count <= most
