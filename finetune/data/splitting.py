"""The random split: on which side an example is depends on its identity, its class and the seed.

An example's identity is what its owner calls it: the name of its group, where there are groups; or
else the path of its file below the folder of the data set, or its row. Examples of one identity are
one unit, which is never divided. The identity is hashed, together with the seed, to a number in
[0, 1), and units below `valid_fraction` are for validation. So an example that is added later, or
left out, moves no other one from validation to training, and a model that is trained again on grown
data is not validated on images that an earlier one was trained on.

The price is that the share is met on average only, like heads in tosses of a coin. A bound keeps
small classes from having bad luck: each holds out at least half and at most one and a half times
its share of units. Where a class meets the bound, the limit for its numbers is moved as little as
possible, and then, rarely, an added unit moves another one. Units are counted, not the examples in
them, so that an example that is added to a group moves nothing.

Where a unit has several classes, the rarest one decides: it has the fewest units to choose from.
"""

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.opening import ImageSource
from finetune.data.images.packed import PackedImage
from finetune.files.names import shared_folder, spelled
from finetune.randomness import uniforms

LEAST_SHARE, LARGEST_SHARE = 0.5, 1.5
"""How much a class holds out, as multiples of `valid_fraction` times its size."""


def identities_of(items: Sequence[ImageSource], root: str | Path | None = None) -> list[str]:
    """What the images are called: their paths below `root`, or else their positions.

    root: None takes the folder that all files are in, so that data which are copied elsewhere are
    split as before. Two spellings of one path are one identity. A member of a shard is called by
    its own name, whichever shard it is in.

    >>> identities_of(["photos/a/1.jpg", "photos/./b.jpg"], "photos")
    ['a/1.jpg', 'b.jpg']
    """
    if isinstance(items, DatasetImages):
        return list(map(str, items.identities))
    if not isinstance(items, list | tuple):  # an array or a tensor of images
        return list(map(str, range(len(items))))
    if any(isinstance(item, PackedImage) for item in items):
        names = [item.name if isinstance(item, PackedImage) else "" for item in items]
        return [name or str(position) for position, name in enumerate(names)]
    identities = [str(item) if isinstance(item, str | Path) else "" for item in items]
    if not _are_plain(identities):
        identities = [spelled(path) if path else "" for path in identities]
    if root is None:
        prefix = shared_folder([path for path in identities if path])
    else:
        prefix = os.path.join(spelled(str(root)), "")
    for position, path in enumerate(identities):
        identities[position] = path.removeprefix(prefix) or str(position)
    return identities


def _are_plain(paths: Sequence[str]) -> bool:
    """Whether none of the paths has another spelling. To look at all at once is fast."""
    text = "\n".join(paths)
    return os.sep == "/" and text.isascii() and "//" not in text and "./" not in text


def held_out(
    identities: Sequence[str], strata: Sequence[Tensor], valid_fraction: float, seed: int
) -> Tensor:
    """Which examples are for validation, bool [N].

    identities: of the N examples; those that are the same are on the same side. strata: positions
    of the examples of each class, int64; each holds out its share. An example may be in several,
    or in none, which keeps it for training. valid_fraction: in (0, 1).

    A stratum keeps a unit for training, and has one for validation if it has two. There are two
    exceptions where units have several classes: rarer classes may keep all of a class's units for
    training; and a class of one unit may lose it to validation, where otherwise so many units were
    kept for such classes that less than half of the share would be held out.
    """
    units, unit_of = _units(identities)
    (numbers,) = uniforms(seed, "split", 0, torch.from_numpy(units), ["valid"]).numpy()
    units_of_strata = [np.unique(unit_of[members.numpy()]) for members in strata]
    is_held_out = _held_out_units(numbers, units_of_strata, valid_fraction)
    if is_held_out.sum() < LEAST_SHARE * valid_fraction * len(units):
        divisible = [members for members in units_of_strata if len(members) > 1]
        is_held_out = _held_out_units(numbers, divisible, valid_fraction)
    return torch.from_numpy(is_held_out[unit_of])


def _units(identities: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each unit, int64 [U], and the number of the unit of each example, int64 [N]."""
    hashes = np.fromiter(map(_hash, identities), np.int64, len(identities))
    return np.unique(hashes, return_inverse=True)


def _hash(identity: str) -> int:
    # names of files need not be UTF-8; Python keeps such bytes as surrogates
    return zlib.crc32(identity.encode("utf-8", "surrogatepass"))


def _held_out_units(
    numbers: np.ndarray, strata: Sequence[np.ndarray], valid_fraction: float
) -> np.ndarray:
    """Which units are for validation, bool [U]. numbers: [U]. strata: the units of each class."""
    is_held_out = np.zeros(len(numbers), bool)
    is_decided = np.zeros(len(numbers), bool)
    for members in sorted(strata, key=len):
        undecided = members[~is_decided[members]]
        decided_count = int(is_held_out[members].sum())
        limit = _limit(numbers[undecided], valid_fraction, len(members), decided_count)
        is_held_out[undecided] = numbers[undecided] < limit
        is_decided[undecided] = True
    for members in strata:
        # rarer classes decided about all units of this one, and each for validation
        if len(members) and is_held_out[members].all():
            is_held_out[members[numbers[members].argmax()]] = False
    return is_held_out


def _limit(
    numbers: np.ndarray, valid_fraction: float, class_size: int, decided_count: int
) -> float:
    """The number below which the undecided units of a class are held out.

    numbers: of the undecided units, in [0, 1). class_size: of all its units. decided_count: how
    many of the others are held out.
    """
    share = valid_fraction * class_size
    most = min(max(math.floor(LARGEST_SHARE * share), 1), class_size - 1) - decided_count
    most = min(most, len(numbers))
    fewest = min(math.ceil(LEAST_SHARE * share) - decided_count, most)
    count = int((numbers < valid_fraction).sum())
    if fewest <= count <= most:
        return valid_fraction
    if most <= 0:  # a lone unit is for training
        return 0.0
    count = min(max(count, fewest), most)
    if count == len(numbers):
        return 1.0
    return float(np.sort(numbers)[count])


def fold_numbers(
    identities: Sequence[str], strata: Sequence[Tensor], count: int, seed: int
) -> Tensor:
    """The fold of each example, from 0 to count - 1, int64 [N].

    identities, strata: see `held_out`; examples of one identity are in one fold. All strata are
    divided evenly, the rarest first: its units go, large ones first and else in a random order that
    identities and seed decide, into the fold that has the fewest examples of the stratum so far; of
    several such folds into the one with the fewest examples of the unit's other strata and of all.
    So the examples of a class with two units are in two folds at least, except where units have so
    many classes that it is not possible for all of them. An added example may move others.

    Source: Sechidis et al., "On the Stratification of Multi-Label Data" (2011).
    Raises ValueError for fewer units than folds.
    """
    units, unit_of = _units(identities)
    if len(units) < count:
        raise ValueError(
            f"{count} folds need as many images, or groups of them, and there are {len(units)}"
        )
    (numbers,) = uniforms(seed, "folds", 0, torch.from_numpy(units), ["fold"]).numpy()
    # all examples are the last stratum, so that folds are of one size
    everything = np.arange(len(unit_of))
    units_of_strata: list[np.ndarray] = []
    shares: list[dict[int, int]] = [{} for _ in units]  # examples of each stratum in each unit
    for stratum, members in enumerate([*(members.numpy() for members in strata), everything]):
        members_of, sizes = np.unique(unit_of[members], return_counts=True)
        units_of_strata.append(members_of)
        for unit, size in zip(members_of.tolist(), sizes.tolist(), strict=True):
            shares[unit][stratum] = size
    large_first = np.lexsort((numbers, -np.bincount(unit_of)))
    turn = np.empty(len(units), np.int64)
    turn[large_first] = np.arange(len(units))
    return torch.from_numpy(_deal(units_of_strata, shares, turn, count)[unit_of])


def _deal(
    units_of_strata: Sequence[np.ndarray],
    shares: Sequence[Mapping[int, int]],
    turn: np.ndarray,
    count: int,
) -> np.ndarray:
    """The fold of each unit, int64 [U]; see `fold_numbers`.

    units_of_strata: the units in each stratum. shares: how many examples of each of its strata a
    unit has. turn: the place of each unit in the order of dealing, int64 [U].
    """
    fold_of = np.full(len(shares), -1)
    in_folds = np.zeros((count, len(units_of_strata)), np.int64)
    for stratum in sorted(range(len(units_of_strata)), key=lambda s: len(units_of_strata[s])):
        members = units_of_strata[stratum]
        undecided = members[fold_of[members] < 0]
        for unit in undecided[np.argsort(turn[undecided])].tolist():
            strata = list(shares[unit])
            crowd = in_folds[:, strata].sum(axis=1)
            fold = int(np.lexsort((crowd, in_folds[:, stratum]))[0])
            fold_of[unit] = fold
            in_folds[fold, strata] += list(shares[unit].values())
    return fold_of
